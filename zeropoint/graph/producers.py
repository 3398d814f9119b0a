"""Find the layer that alone produces a layer's input, through functions that a positive factor passes unchanged.

    f(c · x) = c · f(x) for c > 0, channel by channel

Rectifiers, pools, products with other values, and operators that only move values are such functions. Each channel of
the first layer's output may then have another scale, if the second layer's weight is divided by it.
"""

import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from heapq import heappop, heappush
from math import prod
from typing import Any

import torch
from torch.fx import Node

from zeropoint.graph.matching import named_arguments
from zeropoint.model.layer import CHANNEL_AXES
from zeropoint.model.layer_call import LayerCall
from zeropoint.model.source import ProgramSource

aten = torch.ops.aten

_METADATA = (aten.sym_size.int, aten._assert_tensor_metadata.default)
"""Operators that read no values."""


@dataclass(frozen=True)
class Producer:
    """The layer whose output another layer reads, through positively homogeneous functions."""

    name: str
    averages: bool = False
    """Whether values are averaged on the way, so that the range of the result is not that of the output."""


@dataclass(frozen=True)
class _Channels:
    """Where the producer's channels are in a tensor."""

    axis: int
    """The dimension, counted from the end."""
    repeats: int = 1
    """How many consecutive entries of the dimension belong to one channel, as after flattening."""
    averages: bool = False
    is_mask: bool = False
    """Whether the values only say which numbers are positive, so that no factor changes them."""


def producers(source: ProgramSource) -> dict[str, Producer]:
    """Return layer -> the layer that produces its input, if nothing else reads that layer's output."""
    order = {node: place for place, node in enumerate(source.program.graph.nodes)}
    calls = {name: places[0] for name, places in source.calls.items() if len(places) == 1 and _is_plain(places[0])}
    consumers = {call.node: name for name, call in calls.items()}
    found: dict[str, Producer] = {}
    for name, call in calls.items():
        reader = _only_consumer(call, calls, consumers, order)
        if reader is not None:
            found[reader[0]] = Producer(name, reader[1])
    return found


def _is_plain(call: LayerCall) -> bool:
    return call.kind in CHANNEL_AXES and call.is_ready and not call.is_held and call.addition is None


def _only_consumer(
    producer: LayerCall, calls: Mapping[str, LayerCall], consumers: Mapping[Node, str], order: Mapping[Node, int]
) -> tuple[str, bool] | None:
    """Return the one layer that reads the output, and whether values are averaged before; None for anything else."""
    channels: dict[Node, _Channels] = {producer.node: _Channels(CHANNEL_AXES[producer.kind])}
    waiting: list[tuple[int, Node]] = []
    seen: set[Node] = set()
    found: list[tuple[str, bool]] = []

    def follow(node: Node) -> None:
        for user in node.users:
            if user not in seen and user.target not in _METADATA:
                seen.add(user)
                heappush(waiting, (order[user], user))

    follow(producer.node)
    while waiting:
        _, node = heappop(waiting)
        if node in consumers:
            call = calls[consumers[node]]
            if not _reads(call, channels):
                return None
            found.append((consumers[node], channels[call.input].averages))
            continue
        result = _result(node, channels)
        if result is None:
            return None
        channels[node] = result
        follow(node)
    return found[0] if len(found) == 1 else None


def _reads(call: LayerCall, channels: Mapping[Node, _Channels]) -> bool:
    """Return whether the layer reads the channels as its own, in numbers, and nothing else of them."""
    read = [node for node in call.node.all_input_nodes if node in channels]
    where = channels.get(call.input)
    return read == [call.input] and where is not None and not where.is_mask and where.axis == CHANNEL_AXES[call.kind]


def _result(node: Node, channels: Mapping[Node, _Channels]) -> _Channels | None:
    """Return where the channels are in the result of an operator; None if it is no such function."""
    values = node.args[0] if node.args else None
    rule = _RULES.get(node.target)
    read = [argument for argument in node.all_input_nodes if argument in channels]
    if rule is None:
        return _several(node, channels)
    if not isinstance(values, Node) or read != [values]:
        return None
    where = channels[values]
    return None if where.is_mask and node.target not in _MOVES else rule(node, where)


def _several(node: Node, channels: Mapping[Node, _Channels]) -> _Channels | None:
    """Return the channels of a product with other values, or of a choice between two tensors with these channels."""
    read = [argument for argument in node.args if isinstance(argument, Node) and argument in channels]
    if node.target is aten.mul.Tensor and len(read) == 1 and not channels[read[0]].is_mask:
        return _kept(node, channels[read[0]], read[0])
    if node.target is aten.div.Tensor and read == [node.args[0]] and not channels[read[0]].is_mask:
        return _kept(node, channels[read[0]], read[0])
    if node.target is not aten.where.self or len(read) != 3:
        return None
    mask, first, second = (channels[argument] for argument in read)
    alike = replace(mask, is_mask=False) == first == second
    return first if mask.is_mask and alike else None


def _kept(node: Node, where: _Channels, values: Node) -> _Channels | None:
    """Return the channels unless broadcasting repeats them."""
    before, after = values.meta["val"], node.meta["val"]
    same = before.dtype == after.dtype and str(before.shape[where.axis]) == str(after.shape[where.axis])
    return where if same else None


def _same(node: Node, where: _Channels) -> _Channels | None:
    values = node.args[0]
    assert isinstance(values, Node)
    return _kept(node, where, values)


def _mask(node: Node, where: _Channels) -> _Channels | None:
    return replace(where, is_mask=True) if node.args[1] == 0 else None


def _window(dimensions: int, *, averages: bool = False) -> Callable[[Node, _Channels], _Channels | None]:
    """Return the rule of operators over windows in the last `dimensions`."""

    def rule(_: Node, where: _Channels) -> _Channels | None:
        return replace(where, averages=where.averages or averages) if where.axis < -dimensions else None

    return rule


def _item(node: Node, where: _Channels) -> _Channels | None:
    return where if node.args[1] == 0 else None


def _padded(node: Node, where: _Channels) -> _Channels | None:
    arguments = named_arguments(node)
    plain = arguments.get("mode", "constant") == "constant" and not arguments.get("value")
    sizes = node.args[1]
    assert isinstance(sizes, Sequence)
    return where if plain and where.axis < -(len(sizes) // 2) else None


def _reduced(node: Node, where: _Channels) -> _Channels | None:
    """Return the channels after a mean or maximum over other dimensions."""
    arguments, rank = named_arguments(node), _rank(node.args[0])
    over = arguments.get("dim")
    if not isinstance(over, Sequence) or not over or arguments.get("dtype") is not None:
        return None
    dimensions = [dim - rank if dim >= 0 else dim for dim in over]
    behind = 0 if arguments.get("keepdim") else sum(dim > where.axis for dim in dimensions)
    result = replace(where, axis=where.axis + behind, averages=where.averages or node.target is aten.mean.dim)
    return None if where.axis in dimensions else result


def _permuted(node: Node, where: _Channels) -> _Channels | None:
    rank, arguments = _rank(node.args[0]), named_arguments(node)
    order = list(range(rank))
    if "dims" in arguments:
        order = [dim % rank for dim in arguments["dims"]]
    elif rank > 1:
        first, second = arguments.get("dim0", 0) % rank, arguments.get("dim1", 1) % rank
        order[first], order[second] = order[second], order[first]
    return replace(where, axis=order.index(rank + where.axis) - rank)


def _reshaped(node: Node, where: _Channels) -> _Channels | None:
    """Return the channels after a view that keeps their dimension, or merges it with some behind it."""
    values = node.args[0]
    assert isinstance(values, Node)
    before, after = _sizes(values), _sizes(node)
    axis = len(before) + where.axis
    ahead, channels = prod(before[:axis]), before[axis]
    for place, size in enumerate(after):
        if not _equal(prod(after[:place]), ahead):
            continue
        for last in range(axis + 1, len(before) + 1):
            merged = prod(before[axis + 1 : last])
            if _equal(size, channels * merged) and isinstance(merged, int) and channels != 1:
                return replace(where, axis=place - len(after), repeats=where.repeats * merged)
    return None


def _sizes(node: Node) -> list[Any]:
    """Return the sizes of a tensor: numbers, and expressions of sympy for those that vary."""
    return [size.node.expr if isinstance(size, torch.SymInt) else size for size in node.meta["val"].shape]


def _equal(left: Any, right: Any) -> bool:
    difference = left - right
    return bool((difference if isinstance(difference, int) else difference.expand()) == 0)


def _rank(values: object) -> int:
    assert isinstance(values, Node)
    return int(values.meta["val"].dim())


def _named(packet: str) -> Iterator[object]:
    """Yield the overloads of an operator, all of which a rule covers."""
    found = getattr(aten, packet)
    yield from (getattr(found, overload) for overload in found.overloads() if "out" not in overload.split("_"))


_Rule = Callable[[Node, _Channels], _Channels | None]
_BY_PACKET: Mapping[str, _Rule] = {
    **dict.fromkeys(("relu", "leaky_relu", "prelu", "dropout", "neg", "abs"), _same),
    **dict.fromkeys(("clone", "contiguous", "detach", "alias", "_to_copy", "to"), _same),
    **dict.fromkeys(("gt", "ge", "lt", "le"), _mask),
    **{f"max_pool{n}d": _window(n) for n in (1, 2, 3)},
    **{f"max_pool{n}d_with_indices": _window(n) for n in (2, 3)},
    **{f"adaptive_max_pool{n}d": _window(n) for n in (1, 2, 3)},
    **{f"avg_pool{n}d": _window(n, averages=True) for n in (1, 2, 3)},
    **{f"adaptive_avg_pool{n}d": _window(n, averages=True) for n in (1, 2, 3)},
    **{f"_adaptive_avg_pool{n}d": _window(n, averages=True) for n in (2, 3)},
    **{f"upsample_nearest{n}d": _window(n) for n in (1, 2, 3)},
    **dict.fromkeys(("pad", "constant_pad_nd"), _padded),
    **dict.fromkeys(("mean", "amax"), _reduced),
    **dict.fromkeys(("permute", "transpose", "t"), _permuted),
    **dict.fromkeys(("view", "reshape", "_unsafe_view", "flatten", "squeeze", "unsqueeze", "unflatten"), _reshaped),
}
_RULES: Mapping[object, _Rule] = {
    operator.getitem: _item,
    **{overload: rule for packet, rule in _BY_PACKET.items() for overload in _named(packet)},
}
_MOVES = frozenset(
    overload
    for packet, rule in _BY_PACKET.items()
    if rule in (_same, _permuted, _reshaped) and packet not in ("relu", "leaky_relu", "prelu", "neg", "abs")
    for overload in _named(packet)
)
