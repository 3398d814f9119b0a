"""Find the parameters that are weights: the operators that multiply by them, also through other operators.

A value that depends on parameters alone (a slice, a transpose, a normalized weight) stands for the largest of them.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

from app.intake.program.dataflow import names_in

_PREFIX = "torch.ops.aten."
_KINDS = {
    "linear.default": "Linear",
    "embedding.default": "Embedding",
    **{f"conv{rank}d.{overload}": f"Conv{rank}d" for rank in (1, 2, 3) for overload in ("default", "padding")},
    "conv_transpose1d.default": "ConvTranspose1d",
    **{f"conv_transpose{rank}d.input": f"ConvTranspose{rank}d" for rank in (2, 3)},
}
"""Operators whose argument `weight` is one."""
_PRODUCTS = {
    **dict.fromkeys(("mm.default", "bmm.default", "mv.default"), ("self", "mat2", "vec")),
    "matmul.default": ("self", "other"),
    "addmm.default": ("mat1", "mat2"),
    "baddbmm.default": ("batch1", "batch2"),
    "einsum.default": ("tensors",),
    "_grouped_mm.default": ("mat2",),
}
"""Operators of which either factor may be a weight."""
_VARYING = ("index.Tensor", "index_select.default", "expand.default", "view.default", "reshape.default")
"""Operators that show or select values of their first argument, and may have others that vary: indices and sizes."""
_BY_RANK = {3: "Conv1d", 4: "Conv2d", 5: "Conv3d"}
_LEAST_RANK = 2
_CUTS = ("slice.Tensor", "narrow.default", "select.int")
"""Operators with one result that cut a part out of a tensor; those with several results cut it into these."""
_DROPPING = ("select.int", "unbind.int")
"""Those that leave one dimension less."""


@dataclass(frozen=True)
class Part:
    """A parameter, or a part that operators cut out of it."""

    parameter: str
    cut: str = ""
    """A digest of the operators that cut it and their arguments; "" for a whole parameter."""
    dropped: int = 0
    """How many dimensions these operators dropped."""


@dataclass
class Weight:
    """How a parameter is used as a weight."""

    kinds: list[str] = field(default_factory=list)
    """The kinds of layers that read it, in the order of the graph."""
    parts: dict[Part, str] = field(default_factory=dict)
    """The parts that are weights, each with a value of the graph that holds it."""


def weights_of(
    nodes: list[Any], shapes: Mapping[str, tuple[int, ...]], parameters: Mapping[str, str]
) -> dict[str, Weight]:
    """Return the parameters that are weights, by name.

    `shapes`: those of the parameters by name; `parameters`: value of the graph -> name of the parameter.
    """
    parts = {value: Part(name) for value, name in parameters.items()}
    weights: dict[str, Weight] = {}
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    for node in nodes:
        arguments = {entry["name"]: list(names_in(entry["arg"])) for entry in node["inputs"]}
        known = [value for values in arguments.values() for value in values]
        if known and all(value in parts for value in known):
            largest = max((parts[value] for value in known), key=lambda part: sizes[part.parameter])
            parts |= _results(node, largest)
            continue
        selected = arguments.get("self", [""])[:1] if node["target"].removeprefix(_PREFIX) in _VARYING else [""]
        if selected[0] in parts:
            parts |= _results(node, parts[selected[0]])
            continue
        kind, places = _read_by(node["target"].removeprefix(_PREFIX))
        for value in (value for place in places for value in arguments.get(place, ()) if value in parts):
            shape = shapes[parts[value].parameter]
            if len(shape) >= _LEAST_RANK and sizes[parts[value].parameter]:
                weight = weights.setdefault(parts[value].parameter, Weight())
                found = kind or _BY_RANK.get(len(shape), "Linear")
                weight.kinds += [found] if found not in weight.kinds else []
                part = parts[value]
                several = len(places) > 1 and len(shape) - part.dropped > _LEAST_RANK  # experts are one weight
                weight.parts.setdefault(Part(part.parameter) if several else part, value)
    return weights


def _results(node: Any, part: Part) -> dict[str, Part]:
    """Return the results of an operator on parameters alone: each a further part if the operator cuts."""
    names = [name for output in node["outputs"] for name in names_in(output)]
    if len(names) == 1 and node["target"].removeprefix(_PREFIX) not in _CUTS:
        return {names[0]: part}
    constants = [entry["arg"] for entry in node["inputs"] if not any(True for _ in names_in(entry["arg"]))]
    cut = f"{node['target']} {constants}"
    dropped = part.dropped + (node["target"].removeprefix(_PREFIX) in _DROPPING)
    digests = {name: _digest(f"{part.cut} {cut} {place}") for place, name in enumerate(names)}
    return {name: Part(part.parameter, digest, dropped) for name, digest in digests.items()}


def _digest(text: str) -> str:
    return sha256(text.encode()).hexdigest()


def _read_by(operator: str) -> tuple[str, tuple[str, ...]]:
    """Return the kind of layer that an operator is, "" for a convolution of any rank, and its arguments for weights."""
    if operator in _PRODUCTS:
        return "Linear", _PRODUCTS[operator]
    if operator == "convolution.default":
        return "", ("weight",)
    return _KINDS.get(operator, ""), ("weight",) if operator in _KINDS else ()
