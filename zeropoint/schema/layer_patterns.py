"""Check the layer names and types of a recipe against a model, suggesting similar names.

Torch-free: used when a job is submitted and by the engine.
"""

from bisect import bisect
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import chain

from zeropoint.schema.layer_names import globs, is_glob, layer_name, spellings
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


MOST_SUGGESTIONS = 3
MOST_COMPARED_CHARACTERS = 128
MOST_NEIGHBOURS = 100

Aliases = Mapping[str, Collection[str]]
"""Layer -> the names of its parameters, each of which means the layer too."""


def layer_aliases(parameters: Iterable[str]) -> set[str]:
    """Return further names of a layer with these parameters: theirs, and those of the layers that would own them."""
    return {name for parameter in parameters for name in (parameter, layer_name(parameter))}


def resolved(patterns: Iterable[str], aliases: Aliases) -> tuple[str, ...]:
    """Return the patterns, with the names of layers in place of a pattern that only matches their parameters.

    `encoder.0.weight` becomes `encoder.0`. A pattern that matches nothing stays as it is.
    """
    owners = _owners(aliases)
    return tuple(name for pattern in patterns for name in _layers_of(pattern, aliases, owners))


def _owners(aliases: Aliases) -> dict[str, list[str]]:
    """Return the layers that each further name means."""
    owners: dict[str, list[str]] = {}
    for layer, others in aliases.items():
        for other in others:
            owners.setdefault(other, []).append(layer)
    return owners


def _layers_of(pattern: str, aliases: Aliases, owners: Mapping[str, Sequence[str]]) -> Sequence[str]:
    if pattern == "*" or pattern in aliases:
        return (pattern,)
    if pattern in owners:
        return owners[pattern]
    if not is_glob(pattern):
        named = [layer for name in spellings(pattern) for layer in owners.get(name, ())]
        return (pattern,) if any(name in aliases for name in spellings(pattern)) else named or (pattern,)
    if any(map(globs(pattern), aliases)):
        return (pattern,)
    return [name for name, others in aliases.items() if any(map(globs(pattern), others))] or (pattern,)


def mismatches(
    recipe: Recipe, names: Iterable[str], types: Iterable[str], aliases: Aliases | None = None
) -> list[Mismatch]:
    """Return patterns that match no layer name, and types that neither a layer of the model nor torch has.

    `aliases`: further names that patterns may match, by layer. Near names are suggested for the first few alone.
    """
    layers, known_types = dict.fromkeys(names), sorted({*types, *KNOWN_TYPES})
    known = layers | dict.fromkeys(chain.from_iterable((aliases or {}).values()))
    lists = [("/include", recipe.include), ("/exclude", recipe.exclude)]
    lists += [(f"/overrides/{i}/names", override.names) for i, override in enumerate(recipe.overrides)]
    wrong = [(where, name, "layer") for where, name in _entries(lists) if name != "*" and not _matches_any(name, known)]
    types_of = [("/layer_types", recipe.layer_types), ("/skip_layers", recipe.skip_layers)]
    wrong += [(where, name, "type") for where, name in _entries(types_of) if name not in known_types]
    found = []
    for place, (pointer, name, what) in enumerate(wrong):
        near = nearest(name, layers if what == "layer" else known_types) if place < MOST_SUGGESTIONS else ""
        said = f"{name!r} matches no layer{near}." if what == "layer" else f"{name!r} is no layer type{near}."
        found.append(Mismatch(pointer, said))
    return found


def comparisons(recipe: Recipe, names: Collection[str], aliases: Aliases) -> int:
    """Return how many names the wildcards of a recipe are compared with: what checking it costs.

    A name without wildcards is looked up, however many there are.
    """
    lists = [recipe.include, recipe.exclude, *(override.names for override in recipe.overrides)]
    wildcards = {pattern for patterns in lists for pattern in patterns if pattern != "*" and is_glob(pattern)}
    return len(wildcards) * len({*names, *chain.from_iterable(aliases.values())})


def _matches_any(pattern: str, known: Collection[str]) -> bool:
    if any(name in known for name in spellings(pattern)):
        return True
    return is_glob(pattern) and any(map(globs(pattern), known))


def nearest(name: str, names: Iterable[str]) -> str:
    """Return ` (near: encoder.0, encoder.1)`, or "" when no name is similar.

    Comparing two names takes time by the product of their lengths. So a long one is compared with none, and where there
    are many, those that begin or end like the name are looked at.
    """
    candidates = [other for other in names if len(other) <= MOST_COMPARED_CHARACTERS]
    if len(name) > MOST_COMPARED_CHARACTERS:
        return ""
    if len(candidates) > 2 * MOST_NEIGHBOURS:
        candidates = [*_neighbours(name, candidates), *_neighbours(name, candidates, from_end=True)]
    near = get_close_matches(name, dict.fromkeys(candidates), n=3)
    return f" (near: {', '.join(near)})" if near else ""


def _neighbours(name: str, names: Iterable[str], *, from_end: bool = False) -> Sequence[str]:
    """Return the names around the place that this one would have in their order, read from the end or the beginning."""

    def read(text: str) -> str:
        return text[::-1] if from_end else text

    ordered = sorted(map(read, names))
    place = bisect(ordered, read(name))
    return list(map(read, ordered[max(0, place - MOST_NEIGHBOURS // 2) : place + MOST_NEIGHBOURS // 2]))


def _entries(lists: Iterable[tuple[str, Sequence[str]]]) -> Iterator[tuple[str, str]]:
    return ((f"{pointer}/{i}", entry) for pointer, entries in lists for i, entry in enumerate(entries))
