"""Selection: which layers are quantized, with which settings, and why the others are not.

A layer is left in float for the first of these reasons that applies: it is dead code or folded; its type is skipped or
not selected; its name is excluded or not included; it can't be quantized at all. Otherwise the first override whose
names match gives its settings, or else the recipe itself.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from zeropoint.errors import InvalidRecipe
from zeropoint.layers.quantized_layer import QuantizedLayer
from zeropoint.model.layer import Layer, StoredAlike
from zeropoint.schema.algorithms import AlgorithmSettings
from zeropoint.schema.formats import SourceFormat, unfit
from zeropoint.schema.layer_names import matches
from zeropoint.schema.layer_patterns import Aliases, layer_aliases, mismatches, resolved
from zeropoint.schema.recipe import (
    DEFAULT_LAYER_TYPES,
    ActivationSettings,
    LayerSettings,
    MseObserver,
    Recipe,
    WeightSettings,
)
from zeropoint.schema.report import ReportWarning, SkippedLayer, SkipReason
from zeropoint.schema.skip_reasons import remedy_where_nothing_is_left

FALLBACK = WeightSettings(dtype="qint8", observer=MseObserver())
"""What a recipe's `fallback` "int8" means."""
FALLBACK_CAST = WeightSettings(dtype="float16")
"""What the noisiest of these layers get where int8 costs the model accuracy (`search.fallbacks`)."""
MOST_NAMES = 20


@dataclass(frozen=True)
class Choice:
    """A layer that will be quantized, and how."""

    layer: Layer
    weights: WeightSettings
    activations: ActivationSettings | None


def select(layers: Iterable[Layer], recipe: Recipe) -> tuple[list[Choice], list[SkippedLayer]]:
    """Sort layers into those to quantize and those left in float with their reason.

    Raises InvalidRecipe when a name or type of the recipe matches nothing, or nothing is left to quantize.
    """
    everything = list(layers)
    aliases = {layer.name: layer_aliases(layer.parameters) for layer in everything}
    for mismatch in mismatches(recipe, list(aliases), [layer.type for layer in everything], aliases):
        raise InvalidRecipe(
            "recipe_matches_nothing",
            f"{mismatch.pointer}: {mismatch.detail}",
            "Use names and types from the model's list of layers.",
        )
    choices: list[Choice] = []
    skipped: list[SkippedLayer] = []
    meant = _with_layer_names(recipe, aliases)
    decisions = _agree_on_shared(everything, {layer.name: _decide(layer, meant) for layer in everything})
    _agree_on_stored(everything, decisions, meant)
    for layer in everything:
        decision = decisions[layer.name]
        if isinstance(decision, Choice):
            choices.append(decision)
        else:
            skipped.append(SkippedLayer(name=layer.name, type=layer.type, reason=decision))
    if not choices:
        raise _nothing_left(everything, skipped)
    return choices, skipped


def _nothing_left(layers: Iterable[Layer], skipped: Sequence[SkippedLayer]) -> InvalidRecipe:
    """Return the error that names the layers by reason, and what to do about each reason.

    Advice about the recipe is of no use where a layer can't be quantized at all; normalizations need none.
    """
    by_reason: dict[SkipReason, list[SkippedLayer]] = {}
    for skip in skipped:
        by_reason.setdefault(skip.reason, []).append(skip)
    words = [f"{reason}: {_shown(alike)}" for reason, alike in sorted(by_reason.items())]
    weights = [pair for pair in zip(layers, skipped, strict=True) if pair[0].reason is None or not _is_small(pair[0])]
    reasons: set[SkipReason] = {layer.reason or skip.reason for layer, skip in weights}
    tables = any("Embedding" in skip.type for skip in skipped)
    none = "The model has no weights" + (" but those of normalizations." if words else ".")
    return InvalidRecipe(
        "nothing_to_quantize",
        f"The recipe leaves every layer in float. {'; '.join(words)}." if weights else none,
        remedy_where_nothing_is_left(sorted(reasons), tables=tables),
    )


def _is_small(layer: Layer) -> bool:
    """Return whether a layer holds a value for each channel alone, by its type."""
    return "Norm" in layer.type


def _shown(layers: Sequence[SkippedLayer]) -> str:
    more = f" and {len(layers) - 3} more" if len(layers) > 3 else ""
    return ", ".join(f"{layer.name!r} ({layer.type})" for layer in layers[:3]) + more


def took_fallback(recipe: Recipe, layers: Iterable[QuantizedLayer]) -> list[QuantizedLayer]:
    """Return the layers whose weights took the recipe's fallback, also those that were cast since."""
    asked = {recipe.weights, *(override.weights for override in recipe.overrides)}
    substitutes = {FALLBACK, FALLBACK_CAST} - asked
    return [layer for layer in layers if layer.settings in substitutes] if recipe.fallback is not None else []


def fallback_notes(recipe: Recipe, layers: Iterable[QuantizedLayer]) -> Iterator[ReportWarning]:
    """Yield a note that names the layers whose weights took the recipe's fallback."""
    instead = took_fallback(recipe, layers)
    names = [layer.layer.name for layer in instead]
    casts = [layer.layer.name for layer in instead if layer.settings == FALLBACK_CAST]
    if not names:
        return
    are = "are int8 per channel" if len(casts) < len(names) else "are float16"
    more = f"; {len(casts)} of them are float16, as int8 would cost the model accuracy: {_first_names(casts)}"
    yield ReportWarning(
        code="int8_fallback",
        level="note",
        detail=f"{len(names)} layers can't be {recipe.weights.dtype} in groups of {recipe.weights.group_size}, and "
        f"{are}: {_first_names(names)}{more if 0 < len(casts) < len(names) else ''}.",
        remedy='Nothing, if that is what you want; "fallback": null leaves them in float.',
        layers=names[:MOST_NAMES],
    )


def _first_names(names: Sequence[str]) -> str:
    return ", ".join(repr(name) for name in names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def is_targeted(layer: Layer, algorithms: Iterable[AlgorithmSettings], kinds: Collection[str]) -> bool:
    """Return whether an algorithm of one of these kinds applies to the layer; none does without a known input."""
    types = {layer.type, layer.kind}
    return not layer.is_held and any(
        algorithm.kind in kinds and types & set(getattr(algorithm, "layer_types", ())) for algorithm in algorithms
    )


def require_fit(recipe: Recipe, source: SourceFormat) -> None:
    """Raise InvalidRecipe when the source, or a format that the recipe asks for, can't take the recipe."""
    for misfit in unfit(recipe, source):
        raise InvalidRecipe(
            "recipe_does_not_fit",
            f"{misfit.pointer}: {misfit.detail}",
            "Change the recipe, or give the model in another form.",
        )


def skip_reason(name: str, kind: str, recipe: Recipe) -> SkipReason:
    """Return why a layer of this name and type that can't be quantized stays in float by the recipe."""
    decision = _decide(Layer(name, kind, 0, reason="unsupported"), recipe)
    return decision if not isinstance(decision, Choice) else "unsupported"


def _with_layer_names(recipe: Recipe, aliases: Aliases) -> Recipe:
    """Return the recipe with the names of layers in place of those of their parameters."""
    overrides = [o.model_copy(update={"names": resolved(o.names, aliases)}) for o in recipe.overrides]
    changes = {"include": resolved(recipe.include, aliases), "exclude": resolved(recipe.exclude, aliases)}
    return recipe.model_copy(update={**changes, "overrides": tuple(overrides)})


def _decide(layer: Layer, recipe: Recipe) -> Choice | SkipReason:
    if layer.reason in ("dead_code", "folded"):
        return layer.reason
    types = {layer.type, layer.kind}
    if types & set(recipe.skip_layers):
        return "type_skipped"
    if not types & set(recipe.layer_types):
        by_default = recipe.layer_types == DEFAULT_LAYER_TYPES  # then the user did not choose
        return layer.reason if by_default and layer.reason is not None else "type_not_selected"
    if matches(layer.name, recipe.exclude):
        return "excluded"
    if not matches(layer.name, recipe.include):
        return "not_included"
    if layer.reason is not None:
        return layer.reason
    pair: LayerSettings = next((o for o in recipe.overrides if matches(layer.name, o.names)), recipe)
    if pair.weights is None:
        return "override"
    # an Embedding's input is indices, and what reads a held weight has no input that we know
    in_float = layer.kind == "Embedding" or layer.is_held or layer.input_in_float
    activations = None if in_float else pair.activations
    misfit = _misfit(layer, pair.weights)
    if misfit is not None and recipe.fallback is not None:
        return _misfit(layer, FALLBACK) or Choice(layer, FALLBACK, activations)
    return misfit or Choice(layer, pair.weights, activations)


def _agree_on_shared(
    layers: Sequence[Layer], decisions: dict[str, Choice | SkipReason]
) -> dict[str, Choice | SkipReason]:
    """Skip layers that share a weight and would be quantized differently, so that tied weights stay tied."""
    sharing: dict[str, list[str]] = {}
    for layer in layers:
        if layer.weight_name is not None:
            sharing.setdefault(layer.weight_name, []).append(layer.name)
    for names in sharing.values():
        settings = {d.weights if isinstance(d, Choice) else None for d in (decisions[name] for name in names)}
        if len(settings) > 1:
            conflict: SkipReason = "shared_weight_conflict"
            decisions |= {name: conflict for name in names if isinstance(decisions[name], Choice)}
    return _agree_on_sources(layers, decisions)


def _agree_on_sources(
    layers: Sequence[Layer], decisions: dict[str, Choice | SkipReason]
) -> dict[str, Choice | SkipReason]:
    """Skip layers whose weight is computed from that of another layer, and that one, unless both are quantized.

    With one of them in float, both weights would be stored where the model has one.
    """
    plain = {layer.weight_name: layer.name for layer in layers if layer.weight_name is not None and not layer.computed}
    pairs = [
        (layer.name, plain[source])
        for layer in layers
        if layer.computed
        for source in layer.parameters
        if source in plain
    ]
    for _ in pairs:  # one conflict may lead to the next
        for pair in pairs:
            if not all(isinstance(decisions[name], Choice) for name in pair):
                conflict: SkipReason = "shared_weight_conflict"
                decisions |= {name: conflict for name in pair if isinstance(decisions[name], Choice)}
    return decisions


def _misfit(layer: Layer, settings: WeightSettings) -> SkipReason | None:
    """Return why this layer's weight can't be quantized with these settings; None when it can."""
    shape = layer.weight.shape
    if not layer.can_store(settings):
        return "format_unsupported"
    if settings.granularity == "per_group":
        if len(shape) != 2 or (layer.layout is not None and layer.layout.inputs != 1):
            return "granularity_unsupported"
        even = settings.dtype != "int4" or shape[1] % 2 == 0
        return None if shape[1] % (settings.group_size or 1) == 0 and even else "group_size_mismatch"
    return None if layer.has_axis(settings.axis) else "granularity_unsupported"


def _agree_on_stored(layers: Iterable[Layer], decisions: dict[str, Choice | SkipReason], recipe: Recipe) -> None:
    """Give layers that must be stored alike the recipe's fallback, if one of them has it.

    Raises InvalidRecipe if they differ otherwise.
    """
    alike: dict[StoredAlike, list[Choice]] = {}
    for layer in layers:
        decision = decisions[layer.name]
        if layer.stored_alike is not None and isinstance(decision, Choice):
            alike.setdefault(layer.stored_alike, []).append(decision)
    for kind, choices in alike.items():
        if not _differ(kind, choices):
            continue
        if recipe.fallback is not None and any(choice.weights == FALLBACK for choice in choices):
            choices = [replace(choice, weights=FALLBACK) for choice in choices]
            decisions |= {choice.layer.name: choice for choice in choices}
        if _differ(kind, choices):
            raise _must_be_alike(kind, choices)


def _differ(kind: StoredAlike, choices: Sequence[Choice]) -> bool:
    """Return whether layers have several settings where the saved model can have one."""
    if len({(choice.weights, choice.activations) for choice in choices}) < 2:
        return False
    packed = [c.weights for c in choices if c.activations is None and c.weights.dtype != "float8_e4m3"]
    asymmetric = any(weights.scheme == "asymmetric" for weights in packed)
    return kind == "experts" or asymmetric or (kind == "packed" and bool(packed))


def _must_be_alike(kind: StoredAlike, choices: Sequence[Choice]) -> InvalidRecipe:
    first = choices[0]
    other = next(c for c in choices if (c.weights, c.activations) != (first.weights, first.activations))
    which = (
        "the experts of a mixture" if kind == "experts" else "the layers of this network, if one has packed weights,"
    )
    return InvalidRecipe(
        "recipe_does_not_fit",
        f"transformers opens {which} with one setting for all; {first.layer.name!r} and {other.layer.name!r} differ.",
        'Give these layers the same weights and activations, or leave some in float by "exclude".',
    )
