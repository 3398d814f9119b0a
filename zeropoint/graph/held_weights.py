"""Find weights that operators read and no leaf replaces: recurrent networks, experts, bilinear forms.

Such a weight is dequantized in front of its operators, which stay as they are. That is safe where every operator that
reads it, also through operators that only move or select values, multiplies by it. A table that is added, normalized or
compared stays in float.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch.fx import Node

from zeropoint.graph.constants import Constants, is_check
from zeropoint.graph.moves import MIXED, Dims, moved, source_of
from zeropoint.graph.products import sides
from zeropoint.model.layer import LayerKind
from zeropoint.model.layer_call import LayerCall

aten = torch.ops.aten

RECURRENT: dict[str, LayerKind] = {
    "lstm": "LSTM",
    "gru": "GRU",
    "rnn_tanh": "RNN",
    "rnn_relu": "RNN",
    "lstm_cell": "LSTMCell",
    "gru_cell": "GRUCell",
    "rnn_tanh_cell": "RNNCell",
    "rnn_relu_cell": "RNNCell",
}
"""Operators of recurrent networks, and what they compute."""
_FACTORS = {
    "mm": ((0, 1), (1, 0)),
    "bmm": ((0, 2), (1, 1)),
    "addmm": ((1, 1), (2, 0)),
    "baddbmm": ((1, 2), (2, 1)),
    "addbmm": ((1, 2), (2, 1)),
    "mv": ((0, 1),),
    "addmv": ((1, 1),),
    "linear": ((1, 1),),
    "_grouped_mm": ((1, 1),),
    "grouped_mm_fallback": ((1, 1),),
}
"""Products: for each factor its position among the arguments, and its dimension that the product sums over."""
_BAGS = ("embedding_bag", "_embedding_bag", "_embedding_bag_forward_only")
_MATRIX = 2


@dataclass(frozen=True)
class Reading:
    """A weight among the arguments of an operator."""

    argument: Node
    inputs: tuple[int, ...]
    """The dimensions of the argument that the operator sums over."""
    kind: LayerKind = "Matmul"


def held_calls(nodes: Sequence[Node], constants: Constants, taken: set[Node]) -> Iterator[LayerCall]:
    """Yield a call for each weight that could be dequantized in front of the operators that read it.

    `nodes`: the graph's, in order. `taken`: the stored tensors and the operators of layers that are leaves. Names of
    tensors are absent from the calls.
    """
    place = {node: number for number, node in enumerate(nodes)}
    seen: set[Node] = set()
    for node in nodes:
        for reading in () if node in taken else readings_of(node):
            weight = source_of(reading.argument)
            if weight in seen or not _is_weight(weight, constants) or taken & set(constants.sources(weight)):
                continue
            seen.add(weight)
            multiplied = _all_multiply(weight)
            if multiplied is None and weight.op != "placeholder":
                continue
            inputs, rank = multiplied or (), weight.meta["val"].dim()
            inputs = inputs if 0 < len(inputs) < rank else (rank - 1,)
            order = (*(dim for dim in range(rank) if dim not in inputs), *inputs)
            reader = min((user for user in weight.users if not is_check(user)), key=lambda user: place[user])
            call = LayerCall(reader, reading.kind, weight, weight, None, input_index=-1)
            yield replace(call, order=order, held_inputs=len(inputs), only_multiplied=multiplied is not None)


def readings_of(node: Node) -> Iterator[Reading]:
    """Yield the weights that an operator would multiply by, if these arguments were constant."""
    name = _operator(node)
    arguments = cast(Sequence[Any], node.args)
    if name in RECURRENT:
        weights = arguments[2:4] if name.endswith("_cell") else arguments[2]
        matrices = [w for w in weights if isinstance(w, Node) and w.meta["val"].dim() == _MATRIX]
        yield from (Reading(weight, (1,), RECURRENT[name]) for weight in matrices)
    elif name in ("bilinear", "_trilinear"):
        yield Reading(arguments[2 if name == "bilinear" else 1], (1, 2), "Bilinear")
    elif name in _BAGS:
        yield Reading(arguments[0], (1,), "EmbeddingBag")
    elif name == "einsum":
        yield from _einsum(*arguments[:2])
    elif name == "matmul":
        for index, argument in enumerate(arguments[:2]):
            rank = argument.meta["val"].dim()
            yield Reading(argument, (rank - 2 if index and rank > 1 else rank - 1,))
    else:
        for index, dim in _FACTORS.get(name, ()):
            factor = arguments[index] if index < len(arguments) else node.kwargs.get("weight")
            if isinstance(factor, Node):
                yield Reading(factor, (dim,))


def _operator(node: Node) -> str:
    """Return the operator's name without its overload; "" for another library's, but for products that we know."""
    schema = getattr(node.target, "_schema", None)
    library, _, name = ("" if schema is None else schema.name).partition("::")
    return name if library == "aten" or name == "grouped_mm_fallback" else ""


def _einsum(equation: str, factors: Sequence[Node]) -> Iterator[Reading]:
    left, right = sides(equation)
    operands = left.split(",")
    if len(operands) != len(factors):
        return
    for text, factor in zip(operands, factors, strict=True):
        letters = [*text] if "." not in text else []  # an ellipsis hides which dimension is which
        yield Reading(factor, tuple(dim for dim, letter in enumerate(letters) if letter not in right))


def _is_weight(node: Node, constants: Constants) -> bool:
    value = node.meta.get("val")
    if node not in constants or not isinstance(value, torch.Tensor) or value.dim() < _MATRIX:
        return False
    return bool(value.is_floating_point() and value.numel() and value.layout == torch.strided)


def _all_multiply(weight: Node) -> tuple[int, ...] | None:
    """Return the dimensions over which the first operator sums; None if an operator does anything but multiply."""
    found: list[tuple[int, ...]] = []
    pending: list[tuple[Node, Dims]] = [(weight, tuple(range(weight.meta["val"].dim())))]
    while pending:
        value, dims = pending.pop()
        for reader in value.users:
            inside = [reading for reading in readings_of(reader) if reading.argument is value]
            step = moved(reader, value, dims)
            if inside:
                summed = {dims[dim] for reading in inside for dim in reading.inputs if dim < len(dims)}
                found.append(tuple(sorted(dim for dim in summed if dim != MIXED)))
            elif step is not None:
                pending.append((reader, step))
            elif not is_check(reader):
                return None
    return found[0] if found else None
