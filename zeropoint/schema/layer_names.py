"""Layer names: derive them from parameter names, and match them with patterns. Standard library only."""

import re
from collections.abc import Iterable
from fnmatch import fnmatchcase

_RECURRENT = re.compile(r"(?:weight|bias)_((?:ih|hh|hr)(?:_l\d+)?(?:_reverse)?)")


def layer_name(parameter: str) -> str:
    """Return the name of the layer that owns a parameter: `encoder.0.weight` -> `encoder.0`.

    A projection inside a larger module has its own name: `attn.in_proj_weight` -> `attn.in_proj`, `lstm.weight_ih_l0`
    -> `lstm.ih_l0`.
    """
    owner, _, leaf = parameter.rpartition(".")
    recurrent = _RECURRENT.fullmatch(leaf)
    projection = recurrent[1] if recurrent else leaf.removesuffix("_weight").removesuffix("_bias")
    return owner if projection == leaf else f"{owner}.{projection}".lstrip(".")


def matches(name: str, patterns: Iterable[str]) -> bool:
    """Return whether an exact name or a glob (`encoder.*`, `*.fc?`) matches a layer name, case-sensitively."""
    return any(name == pattern or fnmatchcase(name, pattern) for pattern in patterns)
