"""What a recipe leaves open, and the upload decides. Torch-free: asked at submit, so that the job's recipe is whole.

Defaults follow what runs the result: Inductor's int8 convolutions and onnxruntime take uint8 asymmetric activations;
what reads a compressed-tensors checkpoint expects int8 symmetric ones, symmetric int4 and an output head in float.
"""

from collections.abc import Collection
from typing import Any, TypeVar

from zeropoint.schema.formats import SourceFormat, formats_of
from zeropoint.schema.recipe import Pair, Recipe

HEADS = ("lm_head",)
"""Layers that engines load in float, whatever the checkpoint says of the others."""

SomePair = TypeVar("SomePair", bound=Pair)


def complete(recipe: Recipe, source: SourceFormat, layers: Collection[str]) -> Recipe:
    """The recipe with nothing left open, for such an upload with layers of these names; done twice, it is the same."""
    # what a plan is made for, also where nothing is written
    changes: dict[str, Any] = {"formats": formats_of(recipe.model_copy(update={"mode": "quantize"}), source)}
    if source != "huggingface":
        return recipe.model_copy(update=changes)
    if "exclude" not in recipe.model_fields_set:
        changes["exclude"] = tuple(name for name in HEADS if name in layers)
    changes["overrides"] = tuple(_symmetric(override) for override in recipe.overrides)
    return _symmetric(recipe.model_copy(update=changes))


def _symmetric(pair: SomePair) -> SomePair:
    """The pair with int8 symmetric activations and symmetric int4 weights, where it names neither dtype nor scheme."""
    changes: dict[str, Any] = {}
    weights, activations = pair.weights, pair.activations
    if weights is not None and weights.dtype == "int4" and "scheme" not in weights.model_fields_set:
        changes["weights"] = weights.model_copy(update={"scheme": "symmetric"})
    if activations is not None and not {"dtype", "scheme"} & activations.model_fields_set:
        changes["activations"] = activations.model_copy(update={"dtype": "qint8", "scheme": "symmetric"})
    return pair.model_copy(update=changes)
