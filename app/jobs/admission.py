"""Checks before a job is accepted: the dataset fits the model's inputs, and the recipe's names exist."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from app.catalog.models import Dataset, Model
from app.errors import Fault, Invalid
from app.intake.facts import Dim, Tensor
from zeropoint.schema.formats import SourceFormat, unfit
from zeropoint.schema.labels import NEEDS, TRUTHS, misfit
from zeropoint.schema.layer_patterns import (
    MOST_SUGGESTIONS,
    Aliases,
    Mismatch,
    comparisons,
    layer_aliases,
    mismatches,
    nearest,
)
from zeropoint.schema.recipe import Recipe

MOST_COMPARISONS = 1_000_000
"""Of names with wildcards: about a second of one core."""
MOST_CONVERSIONS = 5


@dataclass(frozen=True)
class _Names:
    """What patterns may match: the names of layers, their types, and further names by layer."""

    layers: Sequence[str]
    types: Sequence[str]
    aliases: Aliases


def check_recipes(recipes: Mapping[str, Recipe], model: Model, *, has_dataset: bool) -> None:
    """Raise Invalid when a recipe names what the model lacks, or needs a dataset and there is none.

    `recipes`: each by its pointer into the request.
    """
    names = _names_of(model)
    needed = sum(comparisons(recipe, names.layers, names.aliases) for recipe in recipes.values())
    if needed > MOST_COMPARISONS:
        detail = f"Wildcards would be compared with {needed} names in all; at most {MOST_COMPARISONS} are compared."
        remedy = "Write fewer patterns with wildcards, or whole names: those are looked up, however many there are."
        raise Invalid("recipe_too_demanding", detail, remedy, [Fault(pointer, detail) for pointer in recipes][:1])
    for pointer, recipe in recipes.items():
        _check_recipe(recipe, model, names, pointer, has_dataset=has_dataset)


def _check_recipe(recipe: Recipe, model: Model, names: _Names, pointer: str, *, has_dataset: bool) -> None:
    if faults := _faults(pointer, unfit(recipe, source_of(model))):
        remedy = "Change the recipe, or upload the model in another form."
        raise Invalid("recipe_does_not_fit", faults[0].detail, remedy, faults)
    if faults := _faults(pointer, mismatches(recipe, names.layers, names.types, names.aliases)):
        remedy = f"GET /v1/models/{model.id} lists the layers; correct the name or drop it."
        raise Invalid("recipe_matches_nothing", faults[0].detail, remedy, faults)
    if recipe.needs_dataset and not has_dataset:
        raise Invalid(
            "dataset_required",
            "Ranges of activations, and what algorithms, a target or a sensitivity decide, come from a dataset.",
            "Upload samples to POST /v1/datasets and name them as dataset, or set activations to null and leave "
            "algorithms, target and sensitivity out.",
            [Fault("/dataset", "is missing")],
        )


def _faults(pointer: str, found: Iterable[Mismatch]) -> list[Fault]:
    return [Fault(f"{pointer}{mismatch.pointer}", mismatch.detail) for mismatch in found]


def _names_of(model: Model) -> _Names:
    aliases = {layer["name"]: layer_aliases(_parameters(layer)) for layer in model.layers}
    return _Names(list(aliases), [layer["type"] for layer in model.layers], aliases)


def _parameters(layer: Mapping[str, Any]) -> Sequence[str]:
    """Return the names of a layer's parameters; if the layer's facts lack them, those that torch's own layers have."""
    if layer.get("tensors"):
        return cast(Sequence[str], layer["tensors"])
    usual = [f"{layer['name']}{part}" for part in (".weight", ".bias", "_weight", "_bias")]
    return [] if layer["weight_shape"] is None else usual


def source_of(model: Model) -> SourceFormat:
    """Return the form in which the model was uploaded."""
    return cast(SourceFormat, model.format)


def check_dataset(model: Model, dataset: Dataset, pointer: str) -> None:
    """Raise Invalid, naming tensor, expected and got, when the dataset doesn't fit the model's inputs."""
    if source_of(model) == "safetensors":
        detail = "The model is a file of weights: there is no graph that samples could run through."
        remedy = "Leave it out, or upload the model as a program (.pt2) to measure with samples."
        raise Invalid("dataset_does_not_fit", detail, remedy, [Fault(pointer, detail)])
    inputs = [Tensor.from_json(entry) for entry in model.inputs]
    tensors = [Tensor.from_json(entry) for entry in dataset.tensors]
    reasons = misfits(inputs, tensors)
    if reasons:
        raise Invalid(
            "dataset_does_not_fit",
            reasons[0],
            _remedy(inputs, tensors),
            [Fault(pointer, detail) for detail in reasons],
        )


def _remedy(inputs: Sequence[Tensor], tensors: Sequence[Tensor]) -> str:
    """Return what to do about the first thing that is wrong: names, then dtypes, then shapes."""
    got = {tensor.name: tensor for tensor in tensors}
    expected = {tensor.name: tensor.dtype for tensor in inputs}
    if not got.keys() - TRUTHS <= expected.keys() or any(t.name not in got and not t.optional for t in inputs):
        return (
            "Save one tensor for each model input, under its name, with samples in the first dimension. What outputs "
            f"are compared with is named {' or '.join(TRUTHS)}."
        )
    wrong = sorted(name for name in expected.keys() & got.keys() if got[name].dtype != expected[name])
    if wrong:
        first = ", ".join(f"{name}.to(torch.{expected[name]})" for name in wrong[:MOST_CONVERSIONS])
        return f"Convert before you save: {first}{' and so on' if len(wrong) > MOST_CONVERSIONS else ''}."
    return "Save samples along the first dimension: the others are those of one sample as the model takes it."


def check_metric(recipe: Recipe, evaluation: Dataset | None, pointer: str = "/recipe") -> None:
    """Raise Invalid when the target asks for a metric that the evaluation dataset can't give."""
    metric = recipe.target and recipe.target.max_drop and recipe.target.max_drop.metric
    if not metric or metric not in NEEDS:
        return
    needed = NEEDS[metric]
    if evaluation is None:
        code, detail = "dataset_required", f"{metric} is measured with {needed}, and the job has no evaluation dataset."
    elif all(tensor["name"] != needed for tensor in evaluation.tensors):
        code, detail = "dataset_does_not_fit", f"{metric} is measured with {needed}, which {evaluation.id} lacks."
    else:
        return
    remedy = (
        f"Name an evaluation_dataset that holds a tensor {needed!r} beside the inputs, or ask for another metric: "
        "agreement needs none."
    )
    raise Invalid(code, detail, remedy, [Fault(f"{pointer}/target/max_drop/metric", detail)])


def misfits(inputs: Sequence[Tensor], tensors: Sequence[Tensor]) -> list[str]:
    """Return why a dataset does not fit a program's inputs; empty when it fits.

    Dimension 0 of every dataset tensor counts samples. Either it is the inputs' own batch dimension, or the program
    takes one sample at a time and each tensor has one dimension more than its input. Tensors to compare outputs
    with (`TRUTHS`) may be there too.
    """
    expected_by_name = {tensor.name: tensor for tensor in inputs}
    truths = {
        tensor.name: tensor for tensor in tensors if tensor.name in TRUTHS and tensor.name not in expected_by_name
    }
    held = {tensor.name: tensor for tensor in tensors if tensor.name not in truths}
    missing = sorted(name for name in expected_by_name.keys() - held if not expected_by_name[name].optional)
    unknown = sorted(held.keys() - expected_by_name)
    reasons = [
        f"{name} is missing{near}; expected {_spell(expected_by_name[name])}." for name, near in _nearest(missing, held)
    ]
    reasons += [f"{name} is not an input of the model{near}." for name, near in _nearest(unknown, expected_by_name)]
    reasons += [why for truth in truths.values() if (why := misfit(truth.name, truth.dtype, truth.shape))]
    if reasons:
        return sorted(reasons)
    pairs = [(tensor, held[tensor.name]) for tensor in inputs if tensor.name in held]
    one_by_one = all(len(got.shape) == len(expected.shape) + 1 for expected, got in pairs)
    return [
        f"{expected.name}: expected {_spell(expected, one_by_one=one_by_one)}, got {_spell(got)}."
        for expected, got in pairs
        if expected.dtype != got.dtype or not _shape_fits(expected, got, one_by_one=one_by_one)
    ]


def _nearest(names: Sequence[str], known: Collection[str]) -> Iterator[tuple[str, str]]:
    """Yield each name with what may be meant, which is looked for the first few."""
    return ((name, nearest(name, known) if i < MOST_SUGGESTIONS else "") for i, name in enumerate(names))


def _shape_fits(expected: Tensor, got: Tensor, *, one_by_one: bool) -> bool:
    if one_by_one:
        return all(map(_size_fits, expected.shape, got.shape[1:]))
    if not expected.shape or len(expected.shape) != len(got.shape):
        return False
    batch, samples = expected.shape[0], got.shape[0]
    least = batch.min if isinstance(batch, Dim) else batch
    return _least(samples) >= least and all(map(_size_fits, expected.shape[1:], got.shape[1:]))


def _size_fits(expected: int | Dim, got: int | Dim) -> bool:
    return expected.admits(_least(got)) if isinstance(expected, Dim) else expected == got


def _least(size: int | Dim) -> int:
    return size.min if isinstance(size, Dim) else size


def _spell(tensor: Tensor, *, one_by_one: bool = False) -> str:
    sizes = ["samples"] if one_by_one else []
    for size in tensor.shape:
        sizes.append(f"{size.min}..{size.max or ''}" if isinstance(size, Dim) else str(size))
    return f"{tensor.dtype} [{', '.join(sizes)}]"
