"""A pattern means layers, also where it is spelled as the name of a parameter."""

import pytest

from tests.networks import Example, attention, audio, convolutional, prenorm, recurrent
from tests.zeropoint.conftest import OpenExample
from zeropoint.schema.layer_names import layer_name, matches
from zeropoint.schema.layer_patterns import mismatches
from zeropoint.schema.recipe import Recipe
from zeropoint.sources.module import module_source

NETWORKS = [attention, audio, convolutional, prenorm, recurrent]


@pytest.mark.parametrize("network", NETWORKS)
def test_the_name_of_a_parameter_means_its_layer_and_no_other(network: object, opened: OpenExample) -> None:
    example: Example = network()  # type: ignore[operator]
    for source in (module_source(example.module), opened(example)):
        names = {layer.name for layer in source.layers}
        for parameter, _ in example.module.named_parameters():
            owners = {layer.name for layer in source.layers if layer.name == layer_name(parameter)}
            assert {name for name in names if matches(name, [parameter])} == owners
            recipe = Recipe(include=(parameter,), exclude=(parameter,))
            assert bool(mismatches(recipe, names, [])) is (not owners)


def test_a_glob_over_parameters_means_their_layers() -> None:
    assert matches("encoder.0", ["encoder.*.weight"])
    assert matches("attn.in_proj", ["*.in_proj_weight"])
    assert matches("lstm.ih_l0", ["lstm.weight_ih_l0"])
    assert not matches("head", ["encoder.*.weight"])


@pytest.mark.parametrize(
    "pattern", ["encoder.0.wieght", "encoder.0.weights", "*_weight", "encoder.0.", "0.weight", "?bias"]
)
def test_what_only_resembles_a_parameter_matches_nothing(pattern: str) -> None:
    assert not matches("encoder.0", [pattern])


def test_a_layer_that_is_called_weight_is_itself() -> None:
    assert matches("gate.weight", ["gate.weight"])
    assert matches("gate.weight", ["gate.weight.bias"])
