"""What a recipe leaves open follows from the form of the upload, and what it says is never changed."""

from typing import Any

import pytest

from zeropoint.formats import WRITERS
from zeropoint.schema.defaults import complete
from zeropoint.schema.formats import FORMATS, SourceFormat, formats_of, unfit
from zeropoint.schema.recipe import Recipe

LAYERS = ["model.layers.0.mlp", "lm_head"]
SOURCES: tuple[SourceFormat, ...] = ("pt2", "huggingface", "safetensors")


def recipe(**said: Any) -> Recipe:
    return Recipe.model_validate(said)


def test_a_folder_gets_signed_symmetric_activations_and_a_float_head() -> None:
    completed = complete(recipe(), "huggingface", LAYERS)
    assert completed.activations is not None
    assert (completed.activations.dtype, completed.activations.scheme) == ("qint8", "symmetric")
    assert completed.exclude == ("lm_head",)
    assert completed.formats == ("huggingface",)


def test_a_program_keeps_unsigned_ones() -> None:
    completed = complete(recipe(), "pt2", LAYERS)
    assert completed == recipe(formats=["safetensors", "pt2"])


@pytest.mark.parametrize(
    "said",
    [
        {"activations": {"dtype": "quint8"}},
        {"activations": {"scheme": "asymmetric"}},
        {"activations": None},
        {"exclude": []},
        {"weights": {"dtype": "int4", "scheme": "asymmetric"}},
    ],
)
def test_what_is_said_stays(said: dict[str, Any]) -> None:
    completed = complete(recipe(**said), "huggingface", LAYERS).model_dump()
    for key in said:
        assert completed[key] == recipe(**said).model_dump()[key]


def test_int4_is_symmetric_in_a_folder_alone() -> None:
    wish = recipe(weights={"dtype": "int4"}, overrides=[{"names": ["lm_head"], "weights": {"dtype": "int4"}}])
    assert [complete(wish, source, LAYERS).weights.scheme for source in ("pt2", "huggingface")] == [
        "asymmetric",
        "symmetric",
    ]
    override = complete(wish, "huggingface", LAYERS).overrides[0]
    assert override.weights is not None
    assert override.weights.scheme == "symmetric"


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("said", [{}, {"weights": {"dtype": "int4"}}, {"activations": None, "exclude": ["lm_head"]}])
def test_done_twice_it_is_the_same_also_through_json(source: SourceFormat, said: dict[str, Any]) -> None:
    once = complete(recipe(**said), source, LAYERS)
    assert complete(once, source, LAYERS) == once
    assert complete(Recipe.model_validate(once.model_dump(mode="json")), source, LAYERS) == once


def test_every_format_has_a_writer() -> None:
    assert set(FORMATS) == set(WRITERS) - {"checkpoint"}


@pytest.mark.parametrize("source", SOURCES)
def test_without_a_wish_every_source_is_written_somehow(source: SourceFormat) -> None:
    assert formats_of(recipe(), source)
    assert not list(unfit(recipe(activations=None), source))


def test_what_a_source_can_not_have_is_told_where_and_why() -> None:
    (found,) = unfit(recipe(formats=["pt2"]), "huggingface")
    assert found.pointer == "/formats/0"
    assert "Hugging Face folder" in found.detail
    assert [found.pointer for found in unfit(recipe(), "safetensors")] == ["/activations"]
    assert [found.pointer for found in unfit(recipe(weights={"dtype": "float16"}), "huggingface")] == ["/weights"]


def test_a_recommendation_is_made_for_the_formats_that_were_asked() -> None:
    recipe = Recipe.model_validate({"mode": "recommend", "formats": ["onnx"]})
    completed = complete(recipe, "pt2", ["a"])
    assert completed.formats == ("safetensors", "onnx")
    assert completed.needs_outputs
