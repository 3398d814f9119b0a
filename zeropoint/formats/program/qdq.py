"""Q/DQ in a graph: nodes that lay values on a static grid, and nodes that make a stored weight float again.

Integers use the ecosystem's `quantized_decomposed` operators, which Inductor lowers to int8 kernels. Casts, float8 and
the unpacking of int4 have no such operator and are written with plain aten ones (`kernels` tells what else is). All
give, bit for bit, what `qparams` and `packing` compute.
"""

from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.ao.quantization.fx._decomposed  # registers quantized_decomposed
from torch._dispatch.python import enable_python_dispatcher
from torch._subclasses.fake_tensor import FakeTensor
from torch.fx import Graph, Node

from zeropoint.formats.program.inductor import Form
from zeropoint.layers.quantized_layer import QuantizedLayer
from zeropoint.primitives.qparams import QParams, QuantType

aten = torch.ops.aten
ops = torch.ops.quantized_decomposed


def lay_on_grid(graph: Graph, values: Node, qparams: QParams) -> Node:
    """x -> x̂ on a per-tensor grid, in the dtype of x."""
    grid, scale = qparams.quant_type, float(qparams.scale)
    if grid.dtype.is_floating_point:
        scaled = add_node(graph, aten.mul.Tensor, _to(graph, values, torch.float32), float(1.0 / qparams.scale))
        clamped = add_node(graph, aten.clamp.default, scaled, float(grid.quant_min), float(grid.quant_max))
        numbers = _to(graph, _to(graph, clamped, grid.dtype), torch.float32)
        return _to(graph, add_node(graph, aten.mul.Tensor, numbers, scale), values.meta["val"].dtype)
    arguments = (scale, int(qparams.zero_point), grid.quant_min, grid.quant_max, grid.dtype)
    numbers = _to(graph, values, torch.float32)  # Inductor's quantize takes nothing else
    integers = add_node(graph, ops.quantize_per_tensor.default, numbers, *arguments)
    floats = add_node(graph, ops.dequantize_per_tensor.default, integers, *arguments)
    return _to(graph, floats, values.meta["val"].dtype)


def make_float(graph: Graph, layer: QuantizedLayer, form: Form, stored: Sequence[Node], dtype: torch.dtype) -> Node:
    """A weight's stored tensors (numbers, scale and zero point where there are buffers of them) -> ŵ in `dtype`."""
    numbers, *rest = stored
    qparams = layer.qparams
    if qparams is None:
        return _to(graph, numbers, dtype)
    if form == "kernel":
        return _to(graph, _centred(graph, qparams.quant_type, numbers, *rest), dtype)
    grid = qparams.quant_type
    limits = (grid.quant_min, grid.quant_max, grid.dtype)
    if qparams.group_size is not None:
        integers = _unpack(graph, numbers) if layer.settings.dtype == "int4" else numbers
        operator = ops.dequantize_per_channel_group.default
        floats = add_node(graph, operator, integers, *rest, *limits, qparams.group_size, torch.float32)
    elif grid.dtype.is_floating_point or form == "plain":
        floats = _plain(graph, qparams, numbers, *rest)
    elif qparams.axis is None:
        single = (float(qparams.scale), int(qparams.zero_point), *limits)
        floats = add_node(graph, ops.dequantize_per_tensor.default, numbers, *single)
    else:
        floats = add_node(graph, ops.dequantize_per_channel.default, numbers, *rest, qparams.axis, *limits)
    return _to(graph, floats, dtype)


def _centred(graph: Graph, grid: QuantType, numbers: Node, scale: Node, zero_point: Node) -> Node:
    """int8 around 0 with a scale [out], also where uint8 around 128 is stored; of a conv1d as conv2d takes it."""
    if grid.dtype == torch.uint8:
        lower = add_node(graph, aten.sub.Tensor, _to(graph, numbers, torch.int16), grid.middle)
        numbers = _to(graph, lower, torch.int8)
    if numbers.meta["val"].dim() == 3:
        numbers = add_node(graph, aten.unsqueeze.default, numbers, 2)
    limits = (grid.quant_min - grid.middle, grid.quant_max - grid.middle, torch.int8)
    return add_node(graph, ops.dequantize_per_channel.default, numbers, scale, zero_point, 0, *limits)


def _plain(graph: Graph, qparams: QParams, numbers: Node, *rest: Node) -> Node:
    """(q − zero_point) · scale in plain operators, per channel or tensor."""
    shape = [-1 if axis == qparams.axis else 1 for axis in range(numbers.meta["val"].dim())]
    spread = [add_node(graph, aten.reshape.default, node, shape) for node in rest]
    floats = _to(graph, numbers, torch.float32)
    if len(spread) > 1:
        floats = add_node(graph, aten.sub.Tensor, floats, spread[1])
    return add_node(graph, aten.mul.Tensor, floats, spread[0] if spread else float(qparams.scale))


def _unpack(graph: Graph, packed: Node) -> Node:
    """uint8 [out, in / 2] -> int8 [out, in], as `packing.unpack_int4`."""
    low = add_node(graph, aten.bitwise_and.Scalar, packed, 15)
    high = add_node(graph, aten.bitwise_right_shift.Tensor_Scalar, packed, 4)
    pairs = add_node(graph, aten.stack.default, [low, high], -1)
    integers = add_node(graph, aten.sub.Tensor, _to(graph, pairs, torch.int8), 8)
    return add_node(graph, aten.flatten.using_ints, integers, 1)


def _to(graph: Graph, values: Node, dtype: torch.dtype) -> Node:
    return values if values.meta["val"].dtype == dtype else add_node(graph, aten.to.dtype, values, dtype)


def add_node(graph: Graph, target: Any, *arguments: object, **options: object) -> Node:
    """A node whose value is known, as export wants it."""
    node = graph.call_function(target, cast(Any, arguments), cast(Any, options))
    fakes = torch.fx.node.map_arg(cast(Any, arguments), lambda argument: argument.meta["val"])
    values = [argument.meta["val"] for argument in node.all_input_nodes]
    fake_mode = next(value.fake_mode for value in values if isinstance(value, FakeTensor))
    with fake_mode, enable_python_dispatcher():  # without it, some operators fix a size that is dynamic
        node.meta["val"] = target(*cast(Any, fakes), **options)
    return node
