"""Q/DQ in a graph: nodes that quantize and dequantize activations, and nodes that dequantize a stored weight.

Integers use the ecosystem's `quantized_decomposed` operators, which Inductor lowers to int8 kernels. Casts, float8 and
the unpacking of int4 have no such operator and use plain aten ones, as do the weights for which `inductor` says so.
Every result is bit-identical to what `primitives.qparams` and `primitives.packing` compute.
"""

from collections.abc import Sequence

import torch
import torch.ao.quantization.fx._decomposed  # registers quantized_decomposed
from torch.fx import Graph, Node

from zeropoint.formats.program.inductor import Form
from zeropoint.graph.program_state import add_node
from zeropoint.layers.quantized_layer import QuantizedLayer
from zeropoint.primitives.qparams import QParams, QuantType

aten = torch.ops.aten
ops = torch.ops.quantized_decomposed


def insert_qdq(graph: Graph, values: Node, qparams: QParams) -> Node:
    """Insert Q/DQ with per-tensor qparams: x -> x̂ in the dtype of x."""
    quant_type, scale = qparams.quant_type, float(qparams.scale)
    limits = (quant_type.quant_min, quant_type.quant_max)
    if quant_type.dtype.is_floating_point:
        scaled = add_node(graph, aten.mul.Tensor, _to(graph, values, torch.float32), float(1.0 / qparams.scale))
        clamped = add_node(graph, aten.clamp.default, scaled, *map(float, limits))
        rounded = _to(graph, _to(graph, clamped, quant_type.dtype), torch.float32)
        return _to(graph, add_node(graph, aten.mul.Tensor, rounded, scale), values.meta["val"].dtype)
    arguments = (scale, int(qparams.zero_point), *limits, quant_type.dtype)
    float32 = _to(graph, values, torch.float32)  # Inductor's quantize takes nothing else
    integers = add_node(graph, ops.quantize_per_tensor.default, float32, *arguments)
    floats = add_node(graph, ops.dequantize_per_tensor.default, integers, *arguments)
    return _to(graph, floats, values.meta["val"].dtype)


def insert_dequantize(
    graph: Graph, layer: QuantizedLayer, form: Form, stored: Sequence[Node], dtype: torch.dtype
) -> Node:
    """Dequantize a weight to ŵ in `dtype`.

    `stored`: the nodes of its integers, and of scale and zero point where these are buffers.
    """
    quantized_values, *rest = stored
    qparams = layer.qparams
    if qparams is None:
        return _to(graph, quantized_values, dtype)
    if form == "kernel":
        return _to(graph, _dequantize_centred(graph, qparams.quant_type, quantized_values, *rest), dtype)
    quant_type = qparams.quant_type
    limits = (quant_type.quant_min, quant_type.quant_max, quant_type.dtype)
    if qparams.group_size is not None:
        integers = _unpack(graph, quantized_values) if layer.settings.dtype == "int4" else quantized_values
        operator = ops.dequantize_per_channel_group.default
        floats = add_node(graph, operator, integers, *rest, *limits, qparams.group_size, torch.float32)
    elif quant_type.dtype.is_floating_point or form == "plain":
        floats = _dequantize_plainly(graph, qparams, quantized_values, *rest)
    elif qparams.axis is None:
        single = (float(qparams.scale), int(qparams.zero_point), *limits)
        floats = add_node(graph, ops.dequantize_per_tensor.default, quantized_values, *single)
    else:
        floats = add_node(graph, ops.dequantize_per_channel.default, quantized_values, *rest, qparams.axis, *limits)
    return _to(graph, floats, dtype)


def _dequantize_centred(
    graph: Graph, quant_type: QuantType, quantized_values: Node, scale: Node, zero_point: Node
) -> Node:
    """Dequantize int8 around 0 with a scale [out].

    uint8 around 128 is shifted down to int8; the weight of a conv1d gets the shape of a conv2d's.
    """
    if quant_type.dtype == torch.uint8:
        shifted = add_node(graph, aten.sub.Tensor, _to(graph, quantized_values, torch.int16), quant_type.middle)
        quantized_values = _to(graph, shifted, torch.int8)
    if quantized_values.meta["val"].dim() == 3:
        quantized_values = add_node(graph, aten.unsqueeze.default, quantized_values, 2)
    limits = (quant_type.quant_min - quant_type.middle, quant_type.quant_max - quant_type.middle, torch.int8)
    return add_node(graph, ops.dequantize_per_channel.default, quantized_values, scale, zero_point, 0, *limits)


def _dequantize_plainly(graph: Graph, qparams: QParams, quantized_values: Node, *rest: Node) -> Node:
    """Compute (q − zero_point) · scale in plain operators, per channel or per tensor."""
    shape = [-1 if axis == qparams.axis else 1 for axis in range(quantized_values.meta["val"].dim())]
    broadcast = [add_node(graph, aten.reshape.default, node, shape) for node in rest]
    floats = _to(graph, quantized_values, torch.float32)
    if len(broadcast) > 1:
        floats = add_node(graph, aten.sub.Tensor, floats, broadcast[1])
    return add_node(graph, aten.mul.Tensor, floats, broadcast[0] if broadcast else float(qparams.scale))


def _unpack(graph: Graph, packed: Node) -> Node:
    """Unpack uint8 [out, in / 2] to int8 [out, in], as `packing.unpack_int4` does."""
    low = add_node(graph, aten.bitwise_and.Scalar, packed, 15)
    high = add_node(graph, aten.bitwise_right_shift.Tensor_Scalar, packed, 4)
    pairs = add_node(graph, aten.stack.default, [low, high], -1)
    integers = add_node(graph, aten.sub.Tensor, _to(graph, pairs, torch.int8), 8)
    return add_node(graph, aten.flatten.using_ints, integers, 1)


def _to(graph: Graph, values: Node, dtype: torch.dtype) -> Node:
    return values if values.meta["val"].dtype == dtype else add_node(graph, aten.to.dtype, values, dtype)
