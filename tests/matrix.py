"""The matrix: every upload × recipe × set of formats, and which of it is done.

The product is computed and what is done is listed, so that a new format, source or recipe is refused here until someone
decides about it.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any, get_args

from zeropoint.schema.formats import SourceFormat
from zeropoint.schema.recipe import FormatName, Recipe

FORMATS: tuple[FormatName, ...] = get_args(FormatName)
SOURCES: tuple[SourceFormat, ...] = get_args(SourceFormat)

RECIPES: Mapping[str, dict[str, Any]] = {
    "static int8": {},
    "static int8, symmetric activations": {"activations": {"dtype": "qint8", "scheme": "symmetric"}},
    "static int8, asymmetric throughout": {
        "weights": {"dtype": "quint8", "scheme": "asymmetric"},
        "activations": {"dtype": "quint8", "scheme": "asymmetric"},
    },
    "static float8": {"weights": {"dtype": "float8_e4m3"}},
    "weight-only int8": {"activations": None},
    "weight-only int8 in groups": {"weights": {"granularity": "per_group", "group_size": 8}, "activations": None},
    "weight-only int4 in groups": {"weights": {"dtype": "int4", "group_size": 8}},
    "weight-only float8": {"weights": {"dtype": "float8_e4m3"}, "activations": None},
    "float16": {"weights": {"dtype": "float16"}},
    "bfloat16": {"weights": {"dtype": "bfloat16"}},
}

SETTINGS: Mapping[str, dict[str, Any]] = {
    **RECIPES,
    "per tensor": {"weights": {"granularity": "per_tensor"}},
    "scales along another axis": {"weights": {"axis": 1}},
    "weights in quint8": {"weights": {"dtype": "quint8"}},
    "asymmetric weights": {"weights": {"scheme": "asymmetric"}},
    "asymmetric weights in quint8": {"weights": {"dtype": "quint8", "scheme": "asymmetric"}},
    "activations in qint8": {"activations": {"dtype": "qint8"}},
    "symmetric activations in quint8": {"activations": {"scheme": "symmetric"}},
    "static int8 in groups": {"weights": {"granularity": "per_group", "group_size": 8}},
    "static int8 in groups, asymmetric": {
        "weights": {"granularity": "per_group", "group_size": 8, "scheme": "asymmetric"}
    },
    "weight-only int4 in groups, symmetric": {"weights": {"dtype": "int4", "group_size": 8, "scheme": "symmetric"}},
    "weight-only float8, per tensor": {
        "weights": {"dtype": "float8_e4m3", "granularity": "per_tensor"},
        "activations": None,
    },
}
"""Also what each setting alone does to the files of a program: suites of networks take theirs from here by name."""

_OF_PROGRAMS: tuple[FormatName, ...] = ("safetensors", "pt2", "onnx")
_STATIC = [name for name in RECIPES if name.startswith("static")]
_CASTS = ("float16", "bfloat16")

ACCEPTED: Mapping[SourceFormat, Mapping[str, tuple[FormatName, ...]]] = {
    "pt2": dict.fromkeys(RECIPES, _OF_PROGRAMS),
    "huggingface": {name: ("huggingface",) for name in RECIPES if name not in _CASTS},
    "safetensors": {name: ("safetensors",) for name in RECIPES if name not in _STATIC},
}
"""By upload and recipe: the formats that the result is written in, alone or together."""


def settings(name: str, group_size: int | None = None) -> dict[str, Any]:
    """Return SETTINGS by name; of those in groups with another size, for layers of few inputs."""
    recipe = dict(SETTINGS[name])
    if group_size is not None and "group_size" in recipe.get("weights", {}):
        recipe["weights"] = recipe["weights"] | {"group_size": group_size}
    return recipe


@dataclass(frozen=True)
class Cell:
    """One recipe for one kind of upload, and the formats that are asked for; none: those that are there by default."""

    source: SourceFormat
    recipe: str
    formats: tuple[FormatName, ...] | None

    @property
    def wish(self) -> dict[str, Any]:
        """The recipe as a client sends it."""
        return RECIPES[self.recipe] | {"formats": self.formats}

    @property
    def parsed(self) -> Recipe:
        return Recipe.model_validate(self.wish)

    @property
    def accepted(self) -> bool:
        known = ACCEPTED[self.source].get(self.recipe)
        return known is not None and set(self.formats or ()) <= set(known)


def cells(source: SourceFormat, recipe: str) -> Iterator[Cell]:
    """One for every set of formats."""
    yield Cell(source, recipe, None)
    for size in range(1, len(FORMATS) + 1):
        yield from (Cell(source, recipe, formats) for formats in combinations(FORMATS, size))
