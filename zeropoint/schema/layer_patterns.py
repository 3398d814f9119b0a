"""Check the layer names and types of a recipe against a model, suggesting similar names.

Torch-free: used when a job is submitted and by the engine.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import chain

from zeropoint.schema.layer_names import layer_name, matches
from zeropoint.schema.recipe import Recipe

BY_RANK = ("Conv", "ConvTranspose", "BatchNorm", "InstanceNorm")
KNOWN_TYPES = {f"{kind}{rank}d" for kind in BY_RANK for rank in (1, 2, 3)} | {
    *("Linear", "Bilinear", "Embedding", "EmbeddingBag", "MultiheadAttention", "PReLU"),
    *("LSTM", "GRU", "RNN", "LSTMCell", "GRUCell", "RNNCell", "Matmul"),
    *("LayerNorm", "RMSNorm", "GroupNorm"),
}
"""torch's own layers with parameters, and Matmul, a product with several weights at once.

A recipe for many models may name a type that this model lacks.
"""


@dataclass(frozen=True)
class Mismatch:
    """`pointer`: JSON pointer into the recipe; `detail`: what is wrong there, for the API's user."""

    pointer: str
    detail: str


Aliases = Mapping[str, Iterable[str]]
"""Layer -> the names of its parameters, each of which means the layer too."""


def layer_aliases(parameters: Iterable[str]) -> set[str]:
    """Return further names of a layer with these parameters: theirs, and those of the layers that would own them."""
    return {name for parameter in parameters for name in (parameter, layer_name(parameter))}


def resolved(patterns: Iterable[str], aliases: Aliases) -> tuple[str, ...]:
    """Return the patterns, with the names of layers in place of a pattern that only matches their parameters.

    `encoder.0.weight` becomes `encoder.0`. A pattern that matches nothing stays as it is.
    """
    return tuple(name for pattern in patterns for name in _layers_of(pattern, aliases))


def _layers_of(pattern: str, aliases: Aliases) -> Sequence[str]:
    if pattern == "*" or pattern in aliases:
        return (pattern,)
    owners = [name for name, others in aliases.items() if pattern in others]
    if owners or any(matches(name, [pattern]) for name in aliases):
        return owners or (pattern,)
    return [name for name, others in aliases.items() if any(matches(other, [pattern]) for other in others)] or (
        pattern,
    )


def mismatches(
    recipe: Recipe, names: Iterable[str], types: Iterable[str], aliases: Aliases | None = None
) -> list[Mismatch]:
    """Return patterns that match no layer name, and types that neither a layer of the model nor torch has.

    `aliases`: further names that patterns may match, by layer.
    """
    known_names, known_types = list(names), sorted({*types, *KNOWN_TYPES})
    further = [other for others in (aliases or {}).values() for other in others]
    lists = [("/include", recipe.include), ("/exclude", recipe.exclude)]
    lists += [(f"/overrides/{i}/names", override.names) for i, override in enumerate(recipe.overrides)]
    unmatched_names = [
        Mismatch(pointer, f"{pattern!r} matches no layer{nearest(pattern, known_names)}.")
        for pointer, pattern in _entries(lists)
        if pattern != "*" and not any(matches(name, [pattern]) for name in chain(known_names, further))
    ]
    return unmatched_names + [
        Mismatch(pointer, f"{name!r} is no layer type{nearest(name, known_types)}.")
        for pointer, name in _entries([("/layer_types", recipe.layer_types), ("/skip_layers", recipe.skip_layers)])
        if name not in known_types
    ]


def nearest(name: str, names: Iterable[str]) -> str:
    """Return ` (near: encoder.0, encoder.1)`, or "" when no name is similar."""
    near = get_close_matches(name, list(names), n=3)
    return f" (near: {', '.join(near)})" if near else ""


def _entries(lists: Iterable[tuple[str, Sequence[str]]]) -> Iterator[tuple[str, str]]:
    return ((f"{pointer}/{i}", entry) for pointer, entries in lists for i, entry in enumerate(entries))
