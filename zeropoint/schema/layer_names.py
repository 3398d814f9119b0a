"""Layer names: derive them from parameter names, and match them with patterns. Standard library only."""

import re
from collections.abc import Iterable
from fnmatch import fnmatchcase

_PARAMETER_WORDS = {"weight", "bias"}
_GLOB = set("*?[")
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
    """Return whether an exact name or a glob (`encoder.*`, `*.fc?`) matches a layer name, case-sensitively.

    The name of a parameter means the layer that owns it: `encoder.0.weight` matches `encoder.0`, `encoder.*.bias` every
    layer in `encoder`.
    """
    return any(_matches(name, pattern) for pattern in patterns)


def _matches(name: str, pattern: str) -> bool:
    if name == pattern or fnmatchcase(name, pattern):
        return True
    leaf = pattern.rpartition(".")[2]
    # any other leaf would let a misspelled `encoder.0.wieght` pass for a parameter, and `*_weight` select everything
    if not _PARAMETER_WORDS & set(leaf.split("_")) or _GLOB & set(leaf):
        return False
    owner = layer_name(pattern)
    return name == owner or fnmatchcase(name, owner)
