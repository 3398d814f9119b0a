import pytest
import torch
from torch import nn

from tests.networks import attention, convolutional
from tests.zeropoint.conftest import OpenExample
from zeropoint import quantize
from zeropoint.errors import InvalidRecipe
from zeropoint.layers.selection import select
from zeropoint.schema.presets import PRESETS
from zeropoint.schema.recipe import Recipe
from zeropoint.sources.module import module_source


def reasons(source_layers: object, **recipe: object) -> dict[str, str]:
    _, skipped = select(source_layers, Recipe.model_validate(recipe))  # type: ignore[arg-type]
    return {layer.name: layer.reason for layer in skipped}


def test_every_layer_is_either_chosen_or_listed_with_its_reason(opened: OpenExample) -> None:
    layers = opened(convolutional()).layers
    choices, skipped = select(layers, Recipe())
    assert sorted([c.layer.name for c in choices] + [s.name for s in skipped]) == sorted(layer.name for layer in layers)
    assert {s.name: s.reason for s in skipped} == {"features.1": "unsupported", "unused": "dead_code"}


@pytest.mark.parametrize(
    ("recipe", "layer", "reason"),
    [
        ({"layer_types": ["Conv2d"]}, "head", "type_not_selected"),
        ({"skip_layers": ["Linear"]}, "head", "type_skipped"),
        ({"include": ["features.*"]}, "head", "not_included"),
        ({"exclude": ["h*d"]}, "head", "excluded"),
        ({"include": ["head"], "exclude": ["head", "features.0"]}, "features.0", "excluded"),
        ({"overrides": [{"names": ["head"], "weights": None}]}, "head", "override"),
    ],
    ids=str,
)
def test_the_reason_is_the_first_that_holds(
    opened: OpenExample, recipe: dict[str, object], layer: str, reason: str
) -> None:
    if recipe.get("exclude") == ["head", "features.0"]:
        recipe = {**recipe, "include": ["head", "features.3"]}
    assert reasons(opened(convolutional()).layers, **recipe)[layer] == reason


def test_the_first_override_that_matches_wins(opened: OpenExample) -> None:
    recipe = Recipe.model_validate(
        {"overrides": [{"names": ["features.*"], "activations": None}, {"names": ["features.0"], "weights": None}]}
    )
    choices, _ = select(opened(convolutional()).layers, recipe)
    chosen = {choice.layer.name: choice.activations is not None for choice in choices}
    assert chosen == {"features.0": False, "features.3": False, "head": True}


def test_layers_that_share_a_weight_are_left_alone_unless_all_of_them_are_chosen(opened: OpenExample) -> None:
    told = reasons(opened(attention()).layers)
    assert (told["head"], told["embed"]) == ("shared_weight_conflict", "type_skipped")


def test_layers_that_share_a_weight_are_quantized_together(opened: OpenExample) -> None:
    recipe = Recipe.model_validate({"layer_types": ["Linear", "Embedding"], "skip_layers": []})
    choices, _ = select(opened(attention()).layers, recipe)
    chosen = {choice.layer.name: choice for choice in choices}
    assert chosen["head"].layer.weight_name == chosen["embed"].layer.weight_name == "head.weight"
    assert chosen["embed"].activations is None
    assert chosen["head"].activations is not None


def test_names_of_parameters_select_exclude_and_override(opened: OpenExample) -> None:
    float16 = {"names": ["head.weight"], "weights": {"dtype": "float16"}}
    recipe = {"include": ["features.*.weight", "head.bias"], "exclude": ["features.0.weight"], "overrides": [float16]}
    choices, _ = select(opened(convolutional()).layers, Recipe.model_validate(recipe))
    assert [(c.layer.name, c.weights.dtype) for c in choices] == [("features.3", "qint8"), ("head", "float16")]


def test_a_pattern_that_matches_nothing_is_refused_with_its_place(opened: OpenExample) -> None:
    with pytest.raises(InvalidRecipe, match=r"/exclude/0: 'heda'") as refused:
        reasons(opened(convolutional()).layers, exclude=["heda"])
    assert refused.value.code == "recipe_matches_nothing"


def test_a_recipe_that_leaves_everything_in_float_is_refused(opened: OpenExample) -> None:
    with pytest.raises(InvalidRecipe, match="type_not_selected") as refused:
        reasons(opened(convolutional()).layers, layer_types=["LSTM"])
    assert refused.value.code == "nothing_to_quantize"


FITS = {"Linear(64)": nn.Linear(64, 8), "Linear(48)": nn.Linear(48, 8), "Linear(33)": nn.Linear(33, 8)}
CONVOLUTIONS = {"Conv1d": nn.Conv1d(4, 8, 3), "Conv2d": nn.Conv2d(4, 8, 3)}


@pytest.mark.parametrize("name", [*FITS, *CONVOLUTIONS])
def test_what_int4_can_not_hold_goes_to_int8_where_the_recipe_says_so(name: str) -> None:
    layer = {**FITS, **CONVOLUTIONS}[name]
    source = module_source(nn.Sequential(layer))
    held = name == "Linear(64)"
    [choice], skipped = select(source.layers, PRESETS["int4-weight-only"].recipe)
    assert (choice.weights.dtype, choice.activations, skipped) == ("int4" if held else "qint8", None, [])
    plain = Recipe.model_validate({"weights": {"dtype": "int4"}})
    if held:
        assert select(source.layers, plain)[0][0].weights.dtype == "int4"
    else:
        with pytest.raises(InvalidRecipe):
            select(source.layers, plain)


def test_a_fallback_takes_nothing_from_what_the_user_left_out() -> None:
    source = module_source(nn.Sequential(nn.Conv2d(4, 8, 3), nn.Flatten(), nn.Linear(33, 8)))
    recipe = Recipe.model_validate({"weights": {"dtype": "int4"}, "fallback": "int8", "exclude": ["0"]})
    choices, skipped = select(source.layers, recipe)
    assert [choice.layer.name for choice in choices] == ["2"]
    assert [(layer.name, layer.reason) for layer in skipped] == [("0", "excluded")]


def test_the_report_names_what_took_the_fallback() -> None:
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(144, 64), nn.ReLU(), nn.Linear(64, 5))
    result = quantize(network, [torch.randn(8, 1, 8, 8) for _ in range(4)], recipe="int4-weight-only", progress=False)
    [note] = [warning for warning in result.report.warnings if warning.code == "int8_fallback"]
    assert (note.level, note.layers) == ("note", ["0", "2"])
    dtypes = {layer.name: layer.weight.dtype for layer in result.report.layers}
    assert dtypes == {"0": "qint8", "2": "qint8", "4": "int4"}
    assert result.report.summary.compression_ratio > 3
    assert result(torch.randn(2, 1, 8, 8)).shape == (2, 5)


@pytest.mark.parametrize("model", [nn.Sequential(nn.ReLU()), nn.Sequential(nn.LayerNorm(4), nn.BatchNorm1d(4))])
def test_a_model_without_weights_is_told_so(model: nn.Module) -> None:
    with pytest.raises(InvalidRecipe, match="no weights") as refused:
        select(module_source(model).layers, Recipe())
    assert refused.value.code == "nothing_to_quantize"


@pytest.mark.parametrize(
    ("model", "recipe", "reason", "key"),
    [
        (nn.Sequential(nn.Linear(4, 4)), {"layer_types": ["Linear"], "exclude": ["0"]}, "excluded", '"exclude"'),
        (nn.Sequential(nn.Linear(4, 4)), {"include": ["1"]}, "not_included", '"include"'),
        (nn.Sequential(nn.Embedding(4, 4)), {}, "type_skipped", '"skip_layers"'),
        (nn.Sequential(nn.Linear(4, 4)), {"layer_types": ["Conv1d"]}, "type_not_selected", '"layer_types"'),
        (nn.Sequential(nn.Bilinear(4, 4, 4)), {}, "unsupported", "torch.export"),
        (nn.Sequential(nn.Linear(5, 4)), {"weights": {"dtype": "int4"}}, "group_size_mismatch", '"group_size"'),
    ],
)
def test_where_nothing_is_left_the_reasons_and_their_remedies_are_named(
    model: nn.Sequential, recipe: dict[str, object], reason: str, key: str
) -> None:
    layers = module_source(nn.Sequential(*model.children(), nn.LayerNorm(4))).layers
    with pytest.raises(InvalidRecipe) as refused:
        select(layers, Recipe.model_validate(recipe))
    assert reason in refused.value.detail
    assert key in refused.value.remedy
    assert "; or " not in refused.value.remedy  # the normalization, which is skipped too, is no advice
