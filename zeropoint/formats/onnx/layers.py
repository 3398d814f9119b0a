"""Rewrite the quantized layers of an ONNX model so that onnxruntime runs them on integers.

int4      two values per byte, as stored, instead of the operators that unpack the bytes
BN        folded into the scales of the convolution before it; otherwise float operators stand between integer ones
biases    onnxruntime rounds them to int32 with scale (input scale · weight scale), which overflows when that is tiny
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from zeropoint.layers.quantized_layer import QuantizedLayer

LARGEST_BIAS = 2**30
"""Half of the int32 range: the other half is left for the sum of products."""
BIASED = ("Conv", "ConvTranspose", "Gemm")
SMALLEST_SCALE = np.float32(2.0**-126)

Array = NDArray[Any]
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Weight:
    """A stored weight that one operator reads: `node` dequantizes it, `axis` is its dimension of output channels."""

    node: ir.Node
    axis: int

    @property
    def quantized_values(self) -> NDArray[np.int64]:
        """Return the integers, with the output channels along `axis`."""
        return _value(self.node.inputs[0]).astype(np.int64)

    @property
    def scale(self) -> Floats:
        """Return the scale: [out], or [] for the whole tensor."""
        return _value(self.node.inputs[1]).astype(np.float32)

    @property
    def zero_point(self) -> NDArray[np.int64]:
        """Return the zero point in the scale's shape; zeros if none is stored."""
        stored = self.node.inputs[2] if len(self.node.inputs) > 2 else None
        return np.zeros(self.scale.shape, np.int64) if stored is None else _value(stored).astype(np.int64)

    def broadcastable(self, values: Array) -> Array:
        """Reshape [out] or [] so that it broadcasts over the quantized values."""
        shape = [-1 if axis == self.axis else 1 for axis in range(self.quantized_values.ndim)]
        return values.reshape(shape) if values.ndim else values

    def write(self, quantized_values: NDArray[np.int64], scale: Floats) -> None:
        """Replace the stored values; a scale [] may become one scale per output channel."""
        parts: list[Array] = [quantized_values, scale, np.broadcast_to(self.zero_point, scale.shape)]
        for index, array in enumerate(parts):
            old = self.node.inputs[index] if index < len(self.node.inputs) else None
            if old is not None:
                _replace_constant(self.node, index, array.astype(_value(old).dtype))
        self.node.attributes["axis"] = ir.AttrInt64("axis", self.axis)


def store_int4_as_uint4(model: ir.Model, layers: Sequence[QuantizedLayer]) -> None:
    """Store int4 weights [out, in] as UINT4, two values per byte, and their zero points likewise."""
    int4_layers = {layer.layer.stored_name("scale"): layer for layer in layers if layer.settings.dtype == "int4"}
    for node in model.graph:
        scale = node.inputs[1] if node.op_type == "DequantizeLinear" else None
        layer = int4_layers.get(str(scale.name)) if scale is not None else None
        if layer is not None and layer.qparams is not None:
            for index, tensor in ((0, layer.weight), (2, layer.qparams.zero_point)):
                name = f"{layer.layer.weight_name}_uint4" + ("_zero_point" if index else "")
                packed = ir.Tensor(tensor.numpy().astype(np.uint8) + np.uint8(8), dtype=ir.DataType.UINT4)
                node.replace_input_with(index, _constant(model.graph, name, packed))


def fold_normalizations(model: ir.Model) -> None:
    """Fold each batch normalization into the convolution before it, keeping the integers and changing their scales.

    BN(ŵ·x + b) = (f·ŵ)·x + (b − mean)·f + β with f = γ / √(variance + ε). Where f is negative, integers are mirrored at
    the zero point; where that leaves the integer range, BN stays.
    """
    for normalization in [node for node in model.graph if node.op_type == "BatchNormalization"]:
        values = normalization.inputs[0]
        convolution = values.producer() if values is not None else None
        if convolution is None or convolution.op_type != "Conv" or not _is_private(convolution.outputs[0]):
            continue
        weight = _weight(convolution)
        if weight is not None and not normalization.outputs[0].is_graph_output() and _fold(normalization, weight):
            _scale_and_shift_bias(convolution, *_scale_and_shift(normalization), _value(normalization.inputs[1]).dtype)
            normalization.outputs[0].replace_all_uses_with(convolution.outputs[0])
            model.graph.remove(normalization, safe=True)


def prevent_bias_overflow(model: ir.Model) -> None:
    """Raise weight scales until |bias| ≤ 2³⁰ · input scale · weight scale, so that biases fit int32.

    This concerns outputs whose weights are tiny compared with their bias (a dead channel): rounding them with the
    larger scale changes the result by about 2⁻³⁰ of the bias for each input.
    """
    for node in model.graph:
        bias = node.inputs[2] if node.op_type in BIASED and len(node.inputs) > 2 else None
        if bias is None or bias.const_value is None:
            continue
        weight, input_scale = _weight(node), _input_scale(node)
        if weight is not None and input_scale is not None:
            _raise_scales(weight, np.abs(_value(bias)).astype(np.float32) / (input_scale * LARGEST_BIAS))


def _raise_scales(weight: Weight, least: Floats) -> None:
    """Requantize the values whose scale is below `least` [out]."""
    old = weight.scale
    scale = np.maximum(old, least if old.ndim else least.max())
    if bool((scale > old).any()):
        zero_point = weight.broadcastable(weight.zero_point)
        exact = (weight.quantized_values - zero_point) * weight.broadcastable(old / scale)
        weight.write(np.rint(exact).astype(np.int64) + zero_point, scale)


def _fold(normalization: ir.Node, weight: Weight) -> bool:
    """Multiply the weight by f; return False if the mirrored integers leave their range."""
    factor, _ = _scale_and_shift(normalization)
    limits = np.iinfo(_value(weight.node.inputs[0]).dtype)
    zero_point, unchanged = weight.broadcastable(weight.zero_point), weight.quantized_values
    values = np.where(weight.broadcastable(factor < 0), 2 * zero_point - unchanged, unchanged)
    if values.min() < limits.min or values.max() > limits.max:
        return False
    smallest = max(SMALLEST_SCALE, np.finfo(_value(weight.node.inputs[1]).dtype).smallest_subnormal)
    weight.write(values, np.maximum(weight.scale * np.abs(factor), smallest))
    return True


def _scale_and_shift(normalization: ir.Node) -> tuple[Floats, Floats]:
    """Return f [out] and β − mean · f [out]."""
    gamma, beta, mean, variance = (_value(value).astype(np.float64) for value in normalization.inputs[1:5])
    epsilon = normalization.attributes.get_float("epsilon", 1e-5)
    factor = gamma / np.sqrt(variance + epsilon)
    return factor.astype(np.float32), (beta - mean * factor).astype(np.float32)


def _scale_and_shift_bias(convolution: ir.Node, factor: Floats, shift: Floats, dtype: Any) -> None:
    """Write the bias in `dtype`, that of the model."""
    if len(convolution.inputs) > 2 and convolution.inputs[2] is not None:
        _replace_constant(convolution, 2, (_value(convolution.inputs[2]) * factor + shift).astype(dtype))
        return
    convolution.resize_inputs(3)
    bias = _constant(_graph(convolution), f"{convolution.name}_bias", ir.tensor(shift.astype(dtype)))
    convolution.replace_input_with(2, bias)


def _weight(node: ir.Node) -> Weight | None:
    """Return an operator's stored weight; None if something else reads it or its scales lie along another axis."""
    axis = {"Conv": 0, "ConvTranspose": 1, "Gemm": int(not node.attributes.get_int("transB", 0))}[node.op_type]
    if node.op_type == "ConvTranspose" and node.attributes.get_int("group", 1) > 1:
        return None
    for producer in _producers(node.inputs[1]):
        if producer.op_type == "Transpose":
            axis = 1 - axis
        elif producer.op_type == "DequantizeLinear" and all(map(_is_constant, producer.inputs)):
            rank = len(_value(producer.inputs[1]).shape)
            fits = rank == 0 or (rank == 1 and producer.attributes.get_int("axis", 1) == axis)
            return Weight(producer, axis) if fits else None
    return None


def _producers(value: ir.Value | None) -> Iterator[ir.Node]:
    """Yield the nodes that compute a value, last first, as long as each has one reader."""
    while value is not None and _is_private(value):
        producer = value.producer()
        if producer is None:
            return
        yield producer
        value = producer.inputs[0]


def _input_scale(node: ir.Node) -> float | None:
    producer = node.inputs[0].producer() if node.inputs[0] is not None else None
    if producer is None or producer.op_type != "DequantizeLinear" or not _is_constant(producer.inputs[1]):
        return None
    return float(_value(producer.inputs[1]))


def _is_constant(value: ir.Value | None) -> bool:
    return value is None or value.const_value is not None


def _is_private(value: ir.Value) -> bool:
    return len(value.uses()) == 1 and not value.is_graph_output()


def _value(value: ir.Value | None) -> Array:
    assert value is not None
    assert value.const_value is not None, value.name
    return np.asarray(value.const_value.numpy())


def _replace_constant(node: ir.Node, index: int, array: Array) -> None:
    """Replace a node's constant input; keep the name if nothing else reads the old constant."""
    old = node.inputs[index]
    assert old is not None
    graph, name = _graph(node), str(old.name)
    if len(old.uses()) == 1:
        graph.initializers.pop(name)
    else:
        name = f"{name}_{node.name}"
    node.replace_input_with(index, _constant(graph, name, ir.tensor(np.ascontiguousarray(array))))


def _constant(graph: ir.Graph, name: str, tensor: ir.TensorProtocol) -> ir.Value:
    """Return a new initializer, or the existing one of this name, which holds the same value."""
    if name in graph.initializers:
        return graph.initializers[name]
    value = ir.Value(
        name=name, shape=ir.Shape(tensor.numpy().shape), type=ir.TensorType(tensor.dtype), const_value=tensor
    )
    graph.register_initializer(value)
    return value


def _graph(node: ir.Node) -> ir.Graph:
    assert isinstance(node.graph, ir.Graph)
    return node.graph
