import pytest
from pydantic import ValidationError

from quantization.names import layer_name, matches
from quantization.presets import PRESETS
from quantization.recipe import Recipe, unmatched_patterns


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
        {"activations": {"scheme": "symmetric"}},
        {"calibration": {"samples": 0}},
        {"validation": {"min_sqnr_db": float("nan")}},
        {"include": [""]},
        {"formats": ["onnx"]},
    ],
    ids=str,
)
def test_what_is_not_built_or_not_sound_is_refused(body: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Recipe.model_validate(body)


def test_weight_only_needs_no_dataset_unless_an_override_is_static() -> None:
    assert not Recipe.model_validate({"activations": None}).needs_dataset
    assert Recipe.model_validate({"activations": None, "overrides": [{"names": ["a"]}]}).needs_dataset


def test_patterns_that_match_nothing_are_told_with_their_place() -> None:
    recipe = Recipe.model_validate({"include": ["enc.*", "dec.*"], "overrides": [{"names": ["enc.9"]}]})
    assert unmatched_patterns(recipe, ["enc.0", "head"]) == [("/include/1", "dec.*"), ("/overrides/0/names/0", "enc.9")]


@pytest.mark.parametrize(
    ("parameter", "layer"),
    [
        ("weight", ""),
        ("fc.weight", "fc"),
        ("encoder.0.bias", "encoder.0"),
        ("attn.in_proj_weight", "attn.in_proj"),
        ("in_proj_bias", "in_proj"),
        ("lstm.weight_ih_l0", "lstm"),
        ("token", ""),
    ],
)
def test_a_parameter_belongs_to_the_layer_that_owns_it(parameter: str, layer: str) -> None:
    assert layer_name(parameter) == layer


def test_names_match_exactly_or_by_glob_and_by_case() -> None:
    assert matches("encoder.0.fc", ["encoder.*"])
    assert matches("a[0]", ["a[0]"])
    assert not matches("Encoder.0", ["encoder.*"])
