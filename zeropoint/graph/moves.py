"""Operators that move or select values of a tensor and compute nothing: views, slices, and rows by an index."""

from collections.abc import Sequence
from operator import getitem
from typing import Any, cast

import torch
from torch.fx import Node

from zeropoint.graph.views import REPEATED, view_step

aten = torch.ops.aten

MIXED = REPEATED
"""Stands for a dimension that is none of the tensor's own."""
Dims = tuple[int, ...]
"""For each dimension of a value, the dimension of the tensor that it comes from, or MIXED."""

_PARTS = (
    *(aten.slice.Tensor, aten.narrow.default, aten.index_select.default, aten.chunk.default),
    *(aten.split.Tensor, aten.split_with_sizes.default, aten.split.sizes),
)
"""Operators that keep every dimension and take a part of one."""
_RESHAPES = (aten.view.default, aten.reshape.default, aten.flatten.using_ints, aten.unflatten.int)
_CASTS = (aten.to.dtype, aten._to_copy.default)
_SQUEEZES = (aten.squeeze.default, aten.squeeze.dim, aten.squeeze.dims)


def source_of(value: Node) -> Node:
    """Return the node from which an argument's values come, through operators that only move or select them."""
    while value.op == "call_function" and value.args and isinstance(value.args[0], Node):
        source = value.args[0]
        if moved(value, source, (MIXED,) * rank_of(source)) is None:
            return value
        value = source
    return value


def moved(reader: Node, value: Node, dims: Dims) -> Dims | None:
    """Return the `dims` of what an operator makes of a value; None if it does more than move or select."""
    arguments = cast(Sequence[Any], reader.args)
    if reader.op != "call_function" or not arguments or arguments[0] is not value:
        return None
    if reader.target is getitem or reader.target in _PARTS:
        return dims if _is_part(reader, value) else None
    if reader.target in (aten.select.int, aten.unbind.int):
        dropped = (arguments[1] if len(arguments) > 1 else 0) % len(dims)
        return (*dims[:dropped], *dims[dropped + 1 :])
    if reader.target is aten.index.Tensor:
        return _indexed(reader, dims)
    if reader.target in _SQUEEZES:
        kept = [dim for dim, size in zip(dims, _sizes(value), strict=True) if size != "1"]
        return tuple(kept) if len(kept) == rank_of(reader) else None
    step = view_step(reader)
    if step is not None:
        return tuple(MIXED if place == REPEATED else dims[place] for place in step)
    if reader.target in _RESHAPES:
        return (MIXED,) * rank_of(reader)
    return dims if reader.target in _CASTS and reader.meta["val"].is_floating_point() else None


def rank_of(node: Node) -> int:
    """Return the number of dimensions of a value, or of the first of several; 0 where it has none."""
    value = node.meta.get("val")
    first = value[0] if isinstance(value, tuple | list) and value else value
    return int(first.dim()) if isinstance(first, torch.Tensor) else 0


def _is_part(reader: Node, value: Node) -> bool:
    """Return whether an operator takes parts of a tensor, or one of several parts."""
    several = isinstance(value.meta.get("val"), tuple | list)
    return several if reader.target is getitem else isinstance(value.meta.get("val"), torch.Tensor)


def _indexed(reader: Node, dims: Dims) -> Dims | None:
    """Return the dims of w[ids]: one index, whose dimensions take the place of the one that it selects from."""
    indices = cast(Sequence[Any], reader.args[1])
    used = [dim for dim, index in enumerate(indices) if index is not None]
    if len(used) != 1:
        return None
    (dim,) = used
    return (*dims[:dim], *[MIXED] * rank_of(indices[dim]), *dims[dim + 1 :])


def _sizes(node: Node) -> list[str]:
    return [str(size) for size in node.meta["val"].shape]
