import pytest
from pydantic import ValidationError

from zeropoint.schema.layer_names import layer_name, matches
from zeropoint.schema.layer_patterns import Mismatch, mismatches
from zeropoint.schema.presets import PRESETS
from zeropoint.schema.recipe import Recipe


def test_an_empty_recipe_is_the_int8_static_preset() -> None:
    assert Recipe.model_validate({}) == PRESETS["int8-static"].recipe


def test_a_recipe_survives_json() -> None:
    recipe = Recipe.model_validate(
        {"include": ["encoder.*"], "overrides": [{"names": ["encoder.0"], "weights": None, "activations": None}]}
    )
    assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe


@pytest.mark.parametrize(
    "body",
    [
        {"wieghts": {}},
        {"weights": {"dtype": "qint3"}},
        {"weights": {"observer": {"kind": "minmax", "bins": 3}}},
        {"activations": {"granularity": "per_channel"}},
        {"calibration": {"samples": 0}},
        {"validation": {"min_sqnr_db": float("nan")}},
        {"include": [""]},
        {"formats": ["gguf"]},
    ],
    ids=str,
)
def test_what_is_not_built_or_not_sound_is_refused(body: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Recipe.model_validate(body)


NONSENSE = {
    "a cast has nothing to choose": ({"weights": {"dtype": "float16", "granularity": "per_tensor"}}, "cast"),
    "a cast has no static activations": ({"weights": {"dtype": "bfloat16"}, "activations": {}}, "weight-only"),
    "float8 has no zero point": ({"weights": {"dtype": "float8_e4m3", "scheme": "asymmetric"}}, "symmetric"),
    "float8 has no groups": ({"weights": {"dtype": "float8_e4m3", "granularity": "per_group"}}, "per_channel"),
    "float8 has no even steps": (
        {"weights": {"dtype": "float8_e4m3"}, "activations": {"dtype": "float8_e4m3", "observer": {"kind": "mse"}}},
        "evenly spaced",
    ),
    "float8 and integers don't mix": ({"activations": {"dtype": "float8_e4m3"}}, "float8_e4m3 weights need"),
    "int4 needs groups": ({"weights": {"dtype": "int4", "granularity": "per_channel"}}, "sixteen levels"),
    "int4 has no static activations": ({"weights": {"dtype": "int4"}, "activations": {}}, "weight-only"),
    "a channel has no group": ({"weights": {"group_size": 32}}, "group_size"),
    "a tensor has no axis": ({"weights": {"granularity": "per_tensor", "axis": 1}}, "axis"),
}


@pytest.mark.parametrize(("body", "reason"), NONSENSE.values(), ids=NONSENSE.keys())
def test_combinations_that_make_no_sense_are_refused_with_the_reason(body: dict[str, object], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        Recipe.model_validate(body)


def test_what_is_left_out_follows_from_the_dtype() -> None:
    int4 = Recipe.model_validate({"weights": {"dtype": "int4"}})
    assert (int4.weights.granularity, int4.weights.scheme, int4.weights.group_size) == ("per_group", "asymmetric", 32)
    assert int4.activations is None
    float8 = Recipe.model_validate({"weights": {"dtype": "float8_e4m3"}})
    assert float8.activations is not None
    assert (float8.activations.dtype, float8.activations.scheme) == ("float8_e4m3", "symmetric")


def test_weight_only_needs_no_dataset_unless_an_override_is_static() -> None:
    assert not Recipe.model_validate({"activations": None}).needs_dataset
    assert Recipe.model_validate({"activations": None, "overrides": [{"names": ["a"]}]}).needs_dataset


def test_names_that_match_nothing_are_told_with_their_place_and_near_ones() -> None:
    recipe = Recipe.model_validate({"include": ["enc.*", "dec.*"], "overrides": [{"names": ["enc.9"]}]})
    assert mismatches(recipe, ["enc.0", "head"], ["Linear"]) == [
        Mismatch("/include/1", "'dec.*' matches no layer (near: enc.0)."),
        Mismatch("/overrides/0/names/0", "'enc.9' matches no layer (near: enc.0)."),
    ]


def test_types_that_nobody_knows_are_told_and_torchs_own_may_be_absent() -> None:
    recipe = Recipe.model_validate({"layer_types": ["Linaer", "Conv2d", "Mine"], "skip_layers": ["LayerNrom"]})
    assert mismatches(recipe, ["head"], ["Linear", "Mine"]) == [
        Mismatch("/layer_types/0", "'Linaer' is no layer type (near: Linear, Mine)."),
        Mismatch("/skip_layers/0", "'LayerNrom' is no layer type (near: LayerNorm)."),
    ]


@pytest.mark.parametrize(
    ("parameter", "layer"),
    [
        ("weight", "weight"),
        ("fc.weight", "fc"),
        ("encoder.0.bias", "encoder.0"),
        ("attn.in_proj_weight", "attn.in_proj"),
        ("in_proj_bias", "in_proj"),
        ("lstm.weight_ih_l0", "lstm.ih_l0"),
        ("lstm.bias_hh_l1_reverse", "lstm.hh_l1_reverse"),
        ("weight_ih", "ih"),
        ("token", "token"),
    ],
)
def test_a_parameter_belongs_to_the_layer_that_owns_it(parameter: str, layer: str) -> None:
    assert layer_name(parameter) == layer


def test_names_match_exactly_or_by_glob_and_by_case() -> None:
    assert matches("encoder.0.fc", ["encoder.*"])
    assert matches("a[0]", ["a[0]"])
    assert not matches("Encoder.0", ["encoder.*"])
