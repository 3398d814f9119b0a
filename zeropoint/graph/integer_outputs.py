"""Find convolutions whose results can stay integers, so that a runtime computes them in integers from end to end.

A runtime runs a convolution on integers only when its result is quantized at once, at its fused output. That rounds the
value once more, so it is done only where

* every reader of the output quantizes it, at once or after operators that have an integer form themselves.
  A value that goes on in float (into a normalization, a sigmoid, a model output) stays float;
* the output is rectified, or no layer reads it quantized. A layer and an addition that read the same two-sided value
  form a residual connection, which accumulates over the whole network: rounding it there cost 1 dB and more.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch.fx import Node

from zeropoint.graph.fused_outputs import fused_output, is_rectified
from zeropoint.model.layer_call import LayerCall

aten = torch.ops.aten

_MOVES = (
    *(aten.max_pool1d.default, aten.max_pool2d.default, aten.max_pool3d.default),
    *(aten.pad.default, aten.constant_pad_nd.default),
    *(aten.flatten.using_ints, aten.view.default, aten.reshape.default, aten._unsafe_view.default),
    *(aten.permute.default, aten.transpose.int, aten.squeeze.dim, aten.squeeze.dims, aten.unsqueeze.default),
    *(aten.dropout.default, aten.clone.default, aten.contiguous.default),
)
"""Operators whose results are some of their input's values, beside constants."""
INTEGER_FORMS = (
    *_MOVES,
    *(aten.add.Tensor, aten.cat.default, aten.relu.default, aten.hardtanh.default, aten.clamp.default),
    *(aten.avg_pool1d.default, aten.avg_pool2d.default, aten.avg_pool3d.default, aten.mean.dim),
    *(aten.adaptive_avg_pool1d.default, aten.adaptive_avg_pool2d.default, aten.adaptive_avg_pool3d.default),
)
"""Operators that runtimes run on integers, or that only move values."""

Quantizes = Callable[[Node, Node], bool]
"""Called with a node and one of its inputs: whether the node quantizes that value."""


@dataclass(frozen=True)
class IntegerOutput:
    """The fused output of a convolution that can stay an integer."""

    reader: str | None
    """The layer whose grid it can have, since that layer reads its largest values; None: there is no such layer."""
    read_alone: bool
    """Whether that layer alone reads it, so that values are rounded no more often than before."""
    positions: int
    """How often each weight is used for one sample, over all calls; dimensions of no fixed size count as one."""


def integer_outputs(calls: Mapping[str, Sequence[LayerCall]], quantized: Sequence[str]) -> dict[str, IntegerOutput]:
    """Return the convolutions whose outputs can stay integers, of the layers that quantize their inputs."""
    readers = {call.node: (name, call) for name in quantized for call in calls[name]}

    def quantizes(node: Node, values: Node) -> bool:
        return node in readers and readers[node][1].input is values

    found: dict[str, IntegerOutput] = {}
    for name in quantized:
        ends = [end for end in map(fused_output, calls[name]) if end is not None]
        if ends and all(becomes_integer(end, quantizes) for end in ends):
            places = {_grid(end, quantizes) for end in ends}
            grid, alone = places.pop() if len(places) == 1 else (None, False)
            reader = None if grid is None else readers[grid][0]
            found[name] = IntegerOutput(reader, alone, sum(map(_positions, ends)))
    return found


def becomes_integer(end: Node, quantizes: Quantizes) -> bool:
    """Return whether the value at a fused output can stay an integer, by the rules above."""
    read = any(quantizes(reader, end) for reader in end.users)
    return stays_integer(end, quantizes) and (is_rectified(end) or not read)


def stays_integer(values: Node, quantizes: Quantizes, known: dict[Node, bool] | None = None) -> bool:
    """Return whether every reader quantizes these values, at once or after operators with integer forms."""
    known = {} if known is None else known
    if values not in known:
        known[values] = bool(values.users) and all(
            quantizes(reader, values) or (reader.target in INTEGER_FORMS and stays_integer(reader, quantizes, known))
            for reader in values.users
        )
    return known[values]


def _positions(end: Node) -> int:
    return prod(size for size in end.meta["val"].shape[2:] if isinstance(size, int))


def _grid(values: Node, quantizes: Quantizes) -> tuple[Node | None, bool]:
    """Return the first node that quantizes these values, or some of them, and whether nothing else reads them."""
    alone, node = True, values
    while True:
        alone = alone and len(node.users) == 1
        reader = next((reader for reader in node.users if quantizes(reader, node)), None)
        moved = [reader for reader in node.users if reader.target in _MOVES]
        if reader is not None or len(moved) != 1:
            fits = reader is not None and (alone or is_rectified(values))
            return (reader, alone) if fits else (None, False)
        node = moved[0]
