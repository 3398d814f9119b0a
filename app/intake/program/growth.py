"""How large the tensors of a program get: as large as it says, or as what they are computed from makes them.

A file may say that a value is small, and compute it from large ones. So sizes are followed from the inputs, through the
operators that keep sizes or make them grow; for any other operator the file is believed. What depends on the data, such
as a symbolic batch, counts with the least that it can be: then no size here is larger than the real one.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, partial
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

from app.intake.limits import Limits
from app.intake.parsing.typed import Wrong
from app.intake.program.dataflow import names_in
from app.intake.program.symbols import bounds_of
from app.intake.tensors.dtypes import BY_EXPORT_NUMBER

Shape = tuple[int, ...]
Least = Callable[[dict[str, Any]], int]

POINTWISE = Path(__file__).with_name("pointwise_operators.txt")
"""The operators whose result has the size of their operands; the script that writes `operators` writes it too."""

_PREFIX = "torch.ops.aten."


class Followed(NamedTuple):
    """A tensor that a node makes: its shape as the file says it, and as it follows; the larger one counts."""

    node: int
    name: str
    declared: Shape
    made: Shape | None

    @property
    def shape(self) -> Shape:
        return max(self.declared, self.made or (0,), key=math.prod)


def check_growth(document: dict[str, Any], limits: Limits) -> None:
    """Raise Wrong, with the node, when a tensor takes more than `limits.tensor_bytes`."""
    metas = document["graph_module"]["graph"]["tensor_values"]
    for tensor in follow(document):
        if math.prod(tensor.shape) * BY_EXPORT_NUMBER[metas[tensor.name]["dtype"]].bytes > limits.tensor_bytes:
            wrong = Wrong(f"is a tensor of more than {limits.tensor_bytes} bytes", tensor.name)
            if tensor.node >= 0:
                wrong.path.insert(0, f"node {tensor.node}")
            raise wrong


def follow(document: dict[str, Any]) -> Iterator[Followed]:
    """Yield every tensor of a checked program in its order; those that it is given have the node -1."""
    graph = document["graph_module"]["graph"]
    ranges = {name: (_at_least(entry["min_val"]), None) for name, entry in document["range_constraints"].items()}
    least = partial(_least, numbers=graph["sym_int_values"], ranges=ranges)
    metas, shapes = graph["tensor_values"], dict[str, Shape]()
    for position, node in enumerate([{"outputs": graph["inputs"]}, *graph["nodes"]], start=-1):
        names = [name for argument in node["outputs"] for name in names_in(argument) if name in metas]
        for place, name in enumerate(names):
            made = _made(node, shapes, least) if place == 0 and position >= 0 else None
            tensor = Followed(position, name, tuple(map(least, metas[name]["sizes"])), made)
            shapes[name] = tensor.shape
            yield tensor


def _made(node: dict[str, Any], shapes: Mapping[str, Shape], least: Least) -> Shape | None:
    """Return the shape that an operator makes of what it is given; None where that is not known."""
    target = node["target"]
    given = {entry["name"]: entry["arg"] for entry in node["inputs"]}
    operands = [shapes[name] for arg in given.values() for name in names_in(arg) if name in shapes]
    if operands and target in pointwise():
        return _broadcast(operands)
    name = target.removeprefix(_PREFIX).partition(".")[0].removesuffix("_")
    rule = _RULES.get(name)
    try:
        return None if rule is None else rule(operands, _Numbers(given, least))
    except (IndexError, ValueError):  # ranks that torch itself refuses
        return None


@cache
def pointwise() -> frozenset[str]:
    """Return the operators that work element by element."""
    return frozenset(POINTWISE.read_text("ascii").split())


class _Numbers:
    """The numbers among the arguments of a node."""

    def __init__(self, given: Mapping[str, dict[str, Any]], least: Least) -> None:
        self._given, self._least = given, least

    def one(self, name: str, default: int) -> int:
        argument = self._given.get(name, {})
        return self._least(argument) if {"as_int", "as_sym_int"} & argument.keys() else default

    def many(self, *names: str) -> list[int]:
        """Return the list that the first of these arguments holds; empty if none does."""
        for name in names:
            for kind, content in self._given.get(name, {}).items():
                if kind in ("as_ints", "as_sym_ints"):
                    return [n if isinstance(n, int) else self._least(n) for n in content]
        return []


def _least(size: dict[str, Any], numbers: Mapping[str, Any], ranges: Mapping[str, tuple[int, None]]) -> int:
    """Return the least that a size or a number can be."""
    match size:
        case {"as_int": int(number)}:
            return number
        case {"as_sym_int": inner}:
            return _least(inner, numbers, ranges)
        case {"as_name": str(name)} if name in numbers:
            return _least(numbers[name], numbers, ranges)
        case {"as_expr": {"expr_str": str(text)}}:
            return _at_least(bounds_of(text, ranges)[0])
    return 1


def _at_least(bound: int | None) -> int:
    return max(1, bound or 1)


def _broadcast(operands: Sequence[Shape]) -> Shape:
    reversed_sizes = zip_longest(*(operand[::-1] for operand in operands), fillvalue=1)
    return tuple(0 if 0 in sizes else max(sizes) for sizes in reversed_sizes)[::-1]


def _kept(operands: Sequence[Shape], _: _Numbers) -> Shape:
    return operands[0]


def _joined(operands: Sequence[Shape], numbers: _Numbers) -> Shape:
    operands = [operand for operand in operands if operand != (0,)] or operands[:1]
    dim, first = numbers.one("dim", 0), list(operands[0])
    first[dim] = sum(operand[dim] for operand in operands)
    return tuple(first)


def _all_elements(operands: Sequence[Shape], _: _Numbers) -> Shape:
    return (sum(map(math.prod, operands)),)


def _repeated(operands: Sequence[Shape], numbers: _Numbers) -> Shape:
    pairs = zip_longest(operands[0][::-1], numbers.many("repeats", "dims")[::-1], fillvalue=1)
    return tuple(size * times for size, times in pairs)[::-1]


def _expanded(operands: Sequence[Shape], numbers: _Numbers) -> Shape:
    wanted = tuple(max(size, 1) for size in numbers.many("size", "shape"))
    return _broadcast([operands[0], wanted])


def _interleaved(operands: Sequence[Shape], numbers: _Numbers) -> Shape:
    return (math.prod(operands[0]) * numbers.one("repeats", 1),)


def _padded(operands: Sequence[Shape], numbers: _Numbers) -> Shape:
    pads, sizes = numbers.many("pad", "padding"), list(operands[0])
    for dim, pair in enumerate(zip(pads[::2], pads[1::2], strict=True), start=1):
        sizes[-dim] += sum(pair)
    return tuple(max(0, size) for size in sizes)


def _multiplied(operands: Sequence[Shape], _: _Numbers) -> Shape:
    first, second = operands[-2:]
    rows, columns = first[-2:-1], second[-1:] if len(second) > 1 else ()
    return (*_broadcast([first[:-2], second[:-2]]), *rows, *columns)


def _linear(operands: Sequence[Shape], _: _Numbers) -> Shape:
    return (*operands[0][:-1], *operands[1][:-1])


def _asked_for(_: Sequence[Shape], numbers: _Numbers) -> Shape:
    return tuple(max(0, size) for size in numbers.many("size"))


def _counted(_: Sequence[Shape], numbers: _Numbers) -> Shape:
    return (max(0, (numbers.one("end", 0) - numbers.one("start", 0)) // max(1, numbers.one("step", 1))),)


def _viewed(operands: Sequence[Shape], numbers: _Numbers) -> Shape:
    elements, sizes = math.prod(operands[0]), numbers.many("size", "shape")
    known = math.prod(size for size in sizes if size != -1)
    shape = tuple(elements // max(1, known) if size == -1 else size for size in sizes)
    return shape if math.prod(shape) == elements else (elements,)


def _flattened(operands: Sequence[Shape], numbers: _Numbers) -> Shape:
    shape = operands[0]
    start, end = numbers.one("start_dim", 0) % len(shape), numbers.one("end_dim", -1) % len(shape)
    return (*shape[:start], math.prod(shape[start : end + 1]), *shape[end + 1 :])


def _unsqueezed(operands: Sequence[Shape], numbers: _Numbers) -> Shape:
    dim = numbers.one("dim", 0) % (len(operands[0]) + 1)
    return (*operands[0][:dim], 1, *operands[0][dim:])


def _permuted(operands: Sequence[Shape], numbers: _Numbers) -> Shape:
    return tuple(operands[0][dim] for dim in numbers.many("dims"))


def _transposed(operands: Sequence[Shape], numbers: _Numbers) -> Shape:
    sizes, first, second = list(operands[0]), numbers.one("dim0", 0), numbers.one("dim1", -1)
    sizes[first], sizes[second] = sizes[second], sizes[first]
    return tuple(sizes)


def _outer(operands: Sequence[Shape], _: _Numbers) -> Shape:
    return (math.prod(map(math.prod, operands)),)


def _looked_up(operands: Sequence[Shape], _: _Numbers) -> Shape:
    return (*operands[1], *operands[0][1:])


def _of_the_index(operands: Sequence[Shape], _: _Numbers) -> Shape:
    return operands[1]


def _selected(operands: Sequence[Shape], numbers: _Numbers) -> Shape:
    sizes = list(operands[0])
    sizes[numbers.one("dim", 0)] = math.prod(operands[1])
    return tuple(sizes)


def _convolved(operands: Sequence[Shape], numbers: _Numbers) -> Shape | None:
    """Return the shape of a convolution whose padding is given in numbers."""
    (inputs, weight), rank = operands[:2], len(operands[1]) - 2
    strides, pads, dilations = (
        (numbers.many(name) * rank)[:rank] or [default] * rank
        for name, default in (("stride", 1), ("padding", 0), ("dilation", 1))
    )
    if numbers.one("transposed", 0) or rank < 1:
        return None
    spatial = [
        (size + 2 * pad - dilation * (kernel - 1) - 1) // stride + 1
        for size, kernel, stride, pad, dilation in zip(
            inputs[-rank:], weight[2:], strides, pads, dilations, strict=True
        )
    ]
    return (*inputs[: -rank - 1], weight[0], *(max(0, size) for size in spatial))


_RULES: Mapping[str, Callable[[Sequence[Shape], _Numbers], Shape | None]] = {
    **dict.fromkeys(("cat", "concat", "concatenate"), _joined),
    **dict.fromkeys(("stack", "hstack", "vstack", "dstack", "column_stack", "row_stack", "block_diag"), _all_elements),
    **dict.fromkeys(("repeat", "tile"), _repeated),
    **dict.fromkeys(("expand", "expand_copy", "broadcast_to"), _expanded),
    "repeat_interleave": _interleaved,
    **dict.fromkeys(("constant_pad_nd", "pad"), _padded),
    **{f"{kind}_pad{rank}d": _padded for kind in ("reflection", "replication") for rank in (1, 2, 3)},
    **dict.fromkeys(("mm", "bmm", "matmul", "addmm", "baddbmm"), _multiplied),
    "linear": _linear,
    **dict.fromkeys(("zeros", "ones", "full", "empty", "new_zeros", "new_ones", "new_full", "new_empty"), _asked_for),
    "arange": _counted,
    **dict.fromkeys(("view", "reshape", "_unsafe_view", "view_copy"), _viewed),
    "flatten": _flattened,
    **dict.fromkeys(("unsqueeze", "unsqueeze_copy"), _unsqueezed),
    **dict.fromkeys(("permute", "permute_copy"), _permuted),
    **dict.fromkeys(("transpose", "transpose_copy", "t", "swapaxes"), _transposed),
    **dict.fromkeys(("outer", "ger", "kron", "meshgrid", "cartesian_prod"), _outer),
    "embedding": _looked_up,
    "gather": _of_the_index,
    "index_select": _selected,
    **dict.fromkeys(("conv1d", "conv2d", "conv3d", "convolution"), _convolved),
    **dict.fromkeys(
        """t_copy unflatten squeeze squeeze_copy movedim moveaxis contiguous clone alias detach _to_copy to
        lift_fresh_copy softmax _softmax log_softmax _log_softmax layer_norm native_layer_norm group_norm rms_norm
        native_group_norm batch_norm instance_norm _native_batch_norm_legit_no_training dropout native_dropout
        cumsum cumprod roll flip fliplr flipud rot90 tril triu sort masked_fill masked_scatter scatter scatter_add
        index_put index_add index_copy index_fill pixel_shuffle pixel_unshuffle channel_shuffle type_as""".split(),  # noqa: SIM905
        _kept,
    ),
}
"""Operator -> what it makes of its operands' shapes. The number of elements is what counts."""
