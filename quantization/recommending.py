"""Recommending: what was decided, as a recipe to look at, edit and run."""

from quantization.layers import Quantized
from quantization.recipe import Override, Recipe


def recommended(quantized: Quantized) -> Recipe:
    """The recipe that gives this result again, without its target: algorithms that stayed, and an override for each
    layer that is in float because of it. Everything else is as it was asked."""
    recipe, decisions = quantized.recipe, quantized.decisions
    left = [skip.name for skip in quantized.skipped if skip.reason == "mixed_precision"]
    kept = [{"kind": step.algorithm, **step.settings} for step in decisions.algorithms if step.kept]
    overrides = [Override(names=(name,), weights=None, activations=None) for name in left]
    fields = {name: getattr(recipe, name) for name in recipe.model_fields_set - {"mode", "target"}}
    fields["algorithms"] = [piece for piece in kept if piece["kind"] != "mixed_precision"]
    fields["overrides"] = [*overrides, *recipe.overrides]
    return Recipe.model_validate(fields)
