"""Bias correction: no mean error is left on the samples that corrected, however they came in batches."""

import pytest
import torch
from torch import Tensor, nn

from tests.zeropoint.algorithms.conftest import Place, Prepare
from zeropoint.algorithms.bias_correction import Mean, correct_biases
from zeropoint.model.source import floating_outputs as outputs
from zeropoint.schema.algorithms import BiasCorrection
from zeropoint.simulation.fake_quant import simulated

COARSE = {"weights": {"dtype": "qint8", "granularity": "per_tensor"}}


def lopsided(prepare: Prepare, *, bias: bool = True) -> Place:
    """Rectified inputs and one large weight that makes the grid coarse: means shift."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(16, 16, bias=bias), nn.ReLU(), nn.Linear(16, 8, bias=bias))
    with torch.no_grad():
        for name in ("0", "2"):
            module.get_parameter(f"{name}.weight")[0, 0] = 60.0
    return prepare(module, torch.rand(64, 16), **COARSE)


def mean_error(place: Place, layers: object) -> Tensor:
    errors = []
    for batch in [*place.context.calibration][:1]:
        (exact,) = outputs(place.context.source, batch)
        with simulated(layers.values()):  # type: ignore[attr-defined]
            (found,) = outputs(place.context.source, batch)
        errors.append(found - exact)
    return torch.cat(errors).mean(0)


@pytest.mark.parametrize("bias", [True, False])
def test_the_mean_error_of_the_outputs_is_gone(prepare: Prepare, bias: bool) -> None:
    place = lopsided(prepare, bias=bias)
    corrected = {**place.layers, **correct_biases(BiasCorrection(), place.context, place.layers)}
    before, after = mean_error(place, place.layers).abs().max(), mean_error(place, corrected).abs().max()
    assert float(after) < float(before) / 5
    assert place.db(corrected) > place.db(place.layers) + 2


def test_a_second_correction_of_the_same_layers_changes_nothing(prepare: Prepare) -> None:
    place = lopsided(prepare)
    once = correct_biases(BiasCorrection(), place.context, place.layers)
    twice = correct_biases(BiasCorrection(), place.context, once)
    for name, layer in once.items():
        assert torch.equal(layer.bias, twice[name].bias)  # type: ignore[arg-type]


def test_the_float_model_is_as_it_was(prepare: Prepare) -> None:
    place = lopsided(prepare)
    batch = next(iter(place.context.calibration))
    before = outputs(place.context.source, batch)
    correct_biases(BiasCorrection(), place.context, place.layers)
    assert torch.equal(before[0], outputs(place.context.source, batch)[0])


def test_a_bias_that_two_layers_share_is_left_alone(prepare: Prepare) -> None:
    module = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))
    module[2].bias = module[0].bias
    place = prepare(module, torch.rand(48, 8))
    assert set(correct_biases(BiasCorrection(), place.context, place.layers)) == {"4"}


def test_a_layer_gets_no_bias_where_the_form_is_fixed(prepare: Prepare) -> None:
    place = lopsided(prepare, bias=False)
    object.__setattr__(place.context.source, "fixed", True)
    assert correct_biases(BiasCorrection(), place.context, place.layers) == {}


def test_a_mean_over_parts_is_that_of_the_whole() -> None:
    values, mean = torch.randn(6, 3, 5), Mean()
    mean.add(values[:1], -2)
    mean.add(values[1:], -2)
    torch.testing.assert_close(mean.value, values.double().mean((0, 2)))
