"""Selection: which layers are quantized, with which settings, and why the others are not.

Order of the questions, first answer counts: can this layer be quantized at all? is its type skipped, or not selected?
is its name excluded, or not included? then the first override whose names match, then the recipe's own settings.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from quantization.errors import InvalidRecipe
from quantization.names import matches
from quantization.recipe import ActivationSettings, Recipe, WeightSettings, unmatched_patterns
from quantization.report import SkippedLayer, SkipReason
from quantization.sources.source import Layer


@dataclass(frozen=True)
class Choice:
    """A layer that will be quantized, and how."""

    layer: Layer
    weights: WeightSettings
    activations: ActivationSettings | None


def select(layers: Iterable[Layer], recipe: Recipe) -> tuple[list[Choice], list[SkippedLayer]]:
    """Sort layers into those to quantize and those left in float with their reason.

    Raises InvalidRecipe when a pattern of the recipe matches no layer, or nothing is left to quantize.
    """
    everything = list(layers)
    for pointer, pattern in unmatched_patterns(recipe, [layer.name for layer in everything]):
        raise InvalidRecipe(
            "recipe_matches_nothing",
            f"{pointer}: {pattern!r} matches no layer of the model.",
            "Use names from the model's list of layers.",
        )
    choices: list[Choice] = []
    skipped: list[SkippedLayer] = []
    for layer in everything:
        decision = _decide(layer, recipe)
        if isinstance(decision, Choice):
            choices.append(decision)
        else:
            skipped.append(SkippedLayer(name=layer.name, type=layer.type, reason=decision))
    if not choices:
        reasons = ", ".join(sorted({skip.reason for skip in skipped})) or "the model has no layers with parameters"
        raise InvalidRecipe(
            "nothing_to_quantize",
            f"The recipe leaves every layer in float: {reasons}.",
            "Select at least one Linear, Conv1d or Conv2d layer by type and name.",
        )
    return choices, skipped


def _decide(layer: Layer, recipe: Recipe) -> Choice | SkipReason:
    if layer.reason == "dead_code":
        return "dead_code"
    types = {layer.type, layer.kind}
    if types & set(recipe.skip_layers):
        return "type_skipped"
    if not types & set(recipe.layer_types):
        return "type_not_selected"
    if matches(layer.name, recipe.exclude):
        return "excluded"
    if not matches(layer.name, recipe.include):
        return "not_included"
    if layer.reason is not None:
        return layer.reason
    for override in recipe.overrides:
        if matches(layer.name, override.names):
            return "override" if override.weights is None else Choice(layer, override.weights, override.activations)
    return Choice(layer, recipe.weights, recipe.activations)
