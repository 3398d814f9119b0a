"""Layer names: derive them from parameter names, and match them with patterns. Standard library only."""

import re
from collections.abc import Callable, Collection, Iterable
from fnmatch import translate
from functools import lru_cache

_PARAMETER_WORDS = {"weight", "bias"}
_GLOB = set("*?[")
_RECURRENT = re.compile(r"(?:weight|bias)_((?:ih|hh|hr)(?:_l\d+)?(?:_reverse)?)")


_PARAMETRIZED = re.compile(r"(?:(.+)\.)?parametrizations\.([^.]+)\.(?:original\d*|\d+\..+)")
_NORMED = re.compile(r"weight_(?:g|v|orig|mask|u)")
"""What weight_norm, spectral_norm and pruning make of a parameter `weight`."""


def layer_name(parameter: str) -> str:
    """Return the name of the layer that owns a parameter: `encoder.0.weight` -> `encoder.0`.

    A projection inside a larger module has its own name: `attn.in_proj_weight` -> `attn.in_proj`, `lstm.weight_ih_l0`
    -> `lstm.ih_l0`. The outermost module has no name: its `weight` and `bias` are the layer `weight`, and any other
    parameter is a layer of its own name.
    """
    owner, leaf = owner_and_leaf(parameter)
    recurrent = _RECURRENT.fullmatch(leaf)
    projection = recurrent[1] if recurrent else leaf.removesuffix("_weight").removesuffix("_bias")
    if projection != leaf:
        return f"{owner}.{projection}".lstrip(".")
    return owner or ("weight" if leaf in ("weight", "bias") else leaf)


def weight_layer_name(parameter: str) -> str:
    """Return the name of the layer whose weight a parameter is: `a.lora_A` -> `a.lora_A`, `a.weight` -> `a`."""
    owner, leaf = owner_and_leaf(parameter)
    name = layer_name(parameter)
    return name if leaf == "weight" or name != owner else f"{owner}.{leaf}"


def is_recurrent(parameter: str) -> bool:
    """Return whether a parameter has the name of one of torch's recurrent modules: `lstm.weight_ih_l0`."""
    return _RECURRENT.fullmatch(owner_and_leaf(parameter)[1]) is not None


def owner_and_leaf(parameter: str) -> tuple[str, str]:
    """Return the module that owns a parameter, and the parameter's name in it, before it was parametrized."""
    parametrized = _PARAMETRIZED.fullmatch(parameter)
    if parametrized:
        return parametrized[1] or "", parametrized[2]
    owner, _, leaf = parameter.rpartition(".")
    return owner, "weight" if _NORMED.fullmatch(leaf) else leaf


def free_name(name: str, taken: Collection[str]) -> str:
    """Return `name`, or the first of `name_1`, `name_2`, … that is not taken."""
    number, free = 0, name
    while free in taken:
        number += 1
        free = f"{name}_{number}"
    return free


def matches(name: str, patterns: Iterable[str]) -> bool:
    """Return whether an exact name or a glob (`encoder.*`, `*.fc?`) matches a layer name, case-sensitively.

    The name of a parameter means the layer that owns it: `encoder.0.weight` matches `encoder.0`, `encoder.*.bias` every
    layer in `encoder`.
    """
    return any(name in spellings(pattern) or (is_glob(pattern) and globs(pattern)(name)) for pattern in patterns)


def is_glob(pattern: str) -> bool:
    """Return whether a pattern has wildcards."""
    return not _GLOB.isdisjoint(pattern)


@lru_cache(maxsize=4096)
def spellings(pattern: str) -> frozenset[str]:
    """Return the names that a pattern spells out: itself, and the layer that owns a parameter of this name."""
    leaf = pattern.rpartition(".")[2]
    # any other leaf would let a misspelled `encoder.0.wieght` pass for a parameter, and `*_weight` select everything
    if not _PARAMETER_WORDS & set(leaf.split("_")) or _GLOB & set(leaf):
        return frozenset({pattern})
    return frozenset({pattern, layer_name(pattern)})


@lru_cache(maxsize=4096)
def globs(pattern: str) -> Callable[[str], bool]:
    """Return the test of a name against a pattern's wildcards, compiled once for many names."""
    match = re.compile("|".join(translate(spelling) for spelling in sorted(spellings(pattern)))).match
    return lambda name: match(name) is not None
