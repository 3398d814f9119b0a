"""Q/DQ in a graph: nodes that lay values on a static grid, and nodes that make a stored weight float again.

Integers use the ecosystem's `quantized_decomposed` operators, which Inductor lowers to int8 kernels. Casts, float8 and
the unpacking of int4 have no such operator and are written with plain aten ones. Both give, bit for bit, what
`affine` and `packing` compute.
"""

from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.ao.quantization.fx._decomposed  # registers quantized_decomposed
from torch._subclasses.fake_tensor import FakeTensor
from torch.fx import Graph, Node

from quantization.affine import Affine
from quantization.layers import QuantizedLayer

aten = torch.ops.aten
ops = torch.ops.quantized_decomposed


def lay_on_grid(graph: Graph, values: Node, affine: Affine) -> Node:
    """x -> x̂ on a per-tensor grid, in the dtype of x."""
    grid, scale = affine.grid, float(affine.scale)
    if grid.dtype.is_floating_point:
        scaled = _call(graph, aten.mul.Tensor, _to(graph, values, torch.float32), float(1.0 / affine.scale))
        clamped = _call(graph, aten.clamp.default, scaled, float(grid.quant_min), float(grid.quant_max))
        numbers = _to(graph, _to(graph, clamped, grid.dtype), torch.float32)
        return _to(graph, _call(graph, aten.mul.Tensor, numbers, scale), values.meta["val"].dtype)
    arguments = (scale, int(affine.zero_point), grid.quant_min, grid.quant_max, grid.dtype)
    integers = _call(graph, ops.quantize_per_tensor.default, values, *arguments)
    options = _out_dtype(values.meta["val"].dtype)
    return _call(graph, ops.dequantize_per_tensor.default, integers, *arguments, **options)


def make_float(graph: Graph, layer: QuantizedLayer, stored: Sequence[Node], dtype: torch.dtype) -> Node:
    """A weight's stored tensors (numbers, scale, zero point) -> ŵ in `dtype`."""
    numbers, *rest = stored
    affine = layer.affine
    if affine is None:
        return _to(graph, numbers, dtype)
    grid = affine.grid
    limits = (grid.quant_min, grid.quant_max, grid.dtype)
    if affine.group_size is not None:
        integers = _unpack(graph, numbers) if layer.settings.dtype == "int4" else numbers
        operator = ops.dequantize_per_channel_group.default
        floats = _call(graph, operator, integers, *rest, *limits, affine.group_size, torch.float32)
        return _to(graph, floats, dtype)
    if grid.dtype.is_floating_point:
        shape = [-1 if axis == affine.axis else 1 for axis in range(layer.weight.dim())]
        scale = float(affine.scale) if affine.axis is None else _call(graph, aten.reshape.default, rest[0], shape)
        return _to(graph, _call(graph, aten.mul.Tensor, _to(graph, numbers, torch.float32), scale), dtype)
    if affine.axis is None:
        single = (float(affine.scale), int(affine.zero_point), *limits)
        return _call(graph, ops.dequantize_per_tensor.default, numbers, *single, **_out_dtype(dtype))
    operator = ops.dequantize_per_channel.default
    return _call(graph, operator, numbers, *rest, affine.axis, *limits, **_out_dtype(dtype))


def _unpack(graph: Graph, packed: Node) -> Node:
    """uint8 [out, in / 2] -> int8 [out, in], as `packing.unpack_int4`."""
    low = _call(graph, aten.bitwise_and.Scalar, packed, 15)
    high = _call(graph, aten.bitwise_right_shift.Tensor_Scalar, packed, 4)
    pairs = _call(graph, aten.stack.default, [low, high], -1)
    integers = _call(graph, aten.sub.Tensor, _to(graph, pairs, torch.int8), 8)
    return _call(graph, aten.flatten.using_ints, integers, 1)


def _to(graph: Graph, values: Node, dtype: torch.dtype) -> Node:
    return values if values.meta["val"].dtype == dtype else _call(graph, aten.to.dtype, values, dtype)


def _out_dtype(dtype: torch.dtype) -> dict[str, torch.dtype]:
    return {} if dtype == torch.float32 else {"out_dtype": dtype}


def _call(graph: Graph, target: Any, *arguments: object, **options: object) -> Node:
    """A node whose value is known, as export wants it."""
    node = graph.call_function(target, cast(Any, arguments), cast(Any, options))
    fakes = torch.fx.node.map_arg(cast(Any, arguments), lambda argument: argument.meta["val"])
    values = [argument.meta["val"] for argument in node.all_input_nodes]
    with next(value.fake_mode for value in values if isinstance(value, FakeTensor)):
        node.meta["val"] = target(*cast(Any, fakes), **options)
    return node
