"""Defaults that depend on the upload. Torch-free: applied when a job is submitted, so that its recipe is complete.

Defaults follow the runtime: Inductor's int8 convolutions and onnxruntime take uint8 asymmetric activations; engines
that read compressed-tensors expect int8 symmetric ones, symmetric int4, and an output head in float.
"""

from collections.abc import Collection
from typing import Any, TypeVar

from zeropoint.schema.formats import SourceFormat, formats_of
from zeropoint.schema.recipe import LayerSettings, Recipe

HEADS = ("lm_head",)
"""Layers that engines always load in float."""

SomeSettings = TypeVar("SomeSettings", bound=LayerSettings)


def complete(recipe: Recipe, source: SourceFormat, layers: Collection[str]) -> Recipe:
    """Return the recipe with every default filled in for this upload, whose layers have these names; idempotent."""
    # a recommendation is made for these formats too, although it writes none
    changes: dict[str, Any] = {"formats": formats_of(recipe.model_copy(update={"mode": "quantize"}), source)}
    if source != "huggingface":
        return recipe.model_copy(update=changes)
    if "exclude" not in recipe.model_fields_set:
        changes["exclude"] = tuple(name for name in HEADS if name in layers)
    changes["overrides"] = tuple(_symmetric(override) for override in recipe.overrides)
    return _symmetric(recipe.model_copy(update=changes))


def _symmetric(settings: SomeSettings) -> SomeSettings:
    """Return int8 symmetric activations and symmetric int4 weights wherever neither dtype nor scheme was given."""
    changes: dict[str, Any] = {}
    weights, activations = settings.weights, settings.activations
    if weights is not None and weights.dtype == "int4" and "scheme" not in weights.model_fields_set:
        changes["weights"] = weights.model_copy(update={"scheme": "symmetric"})
    if activations is not None and not {"dtype", "scheme"} & activations.model_fields_set:
        changes["activations"] = activations.model_copy(update={"dtype": "qint8", "scheme": "symmetric"})
    return settings.model_copy(update=changes)
