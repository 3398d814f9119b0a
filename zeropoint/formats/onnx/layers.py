"""Quantized layers inside an ONNX model, laid the way onnxruntime runs them on integers.

int4      two numbers a byte, as they are stored, in place of the operators that take the bytes apart
BN        behind a convolution it goes into the weight's scales, or its float operators would stand in between
biases    onnxruntime makes them int32 on the grid (input scale · weight scale), which a tiny weight scale overflows
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from zeropoint.layers.quantized_layer import QuantizedLayer

LARGEST_BIAS = 2**30
"""Half of what int32 holds: sums of products are added to it."""
BIASED = ("Conv", "ConvTranspose", "Gemm")
SMALLEST_SCALE = np.float32(2.0**-126)

Array = NDArray[Any]
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Weight:
    """A stored weight that one operator reads: `node` makes it float, `axis` counts the operator's outputs in it."""

    node: ir.Node
    axis: int

    @property
    def numbers(self) -> NDArray[np.int64]:
        """[out, ...], or wherever `axis` lies."""
        return _value(self.node.inputs[0]).astype(np.int64)

    @property
    def scale(self) -> Floats:
        """[out], or [] for the whole tensor."""
        return _value(self.node.inputs[1]).astype(np.float32)

    @property
    def zero_point(self) -> NDArray[np.int64]:
        """Shaped as the scale."""
        stored = self.node.inputs[2] if len(self.node.inputs) > 2 else None
        return np.zeros(self.scale.shape, np.int64) if stored is None else _value(stored).astype(np.int64)

    def beside(self, values: Array) -> Array:
        """[out] or [] in a shape that broadcasts over the numbers."""
        shape = [-1 if axis == self.axis else 1 for axis in range(self.numbers.ndim)]
        return values.reshape(shape) if values.ndim else values

    def write(self, numbers: NDArray[np.int64], scale: Floats) -> None:
        """Store these instead; scales of the whole tensor may become those of outputs."""
        parts: list[Array] = [numbers, scale, np.broadcast_to(self.zero_point, scale.shape)]
        for index, array in enumerate(parts):
            old = self.node.inputs[index] if index < len(self.node.inputs) else None
            if old is not None:
                _put(self.node, index, array.astype(_value(old).dtype))
        self.node.attributes["axis"] = ir.AttrInt64("axis", self.axis)


def halve_bytes(model: ir.Model, layers: Sequence[QuantizedLayer]) -> None:
    """Give DequantizeLinear the numbers of int4 weights as UINT4 [out, in], two a byte; zero points likewise."""
    halves = {f"{layer.layer.weight_name}_scale": layer for layer in layers if layer.settings.dtype == "int4"}
    for node in model.graph:
        scale = node.inputs[1] if node.op_type == "DequantizeLinear" else None
        layer = halves.get(str(scale.name)) if scale is not None else None
        if layer is not None and layer.qparams is not None:
            for index, tensor in ((0, layer.weight), (2, layer.qparams.zero_point)):
                name = f"{layer.layer.weight_name}_uint4" + ("_zero_point" if index else "")
                numbers = ir.Tensor(tensor.numpy().astype(np.uint8) + np.uint8(8), dtype=ir.DataType.UINT4)
                node.replace_input_with(index, _constant(model.graph, name, numbers))


def fold_normalizations(model: ir.Model) -> None:
    """BN(ŵ·x + b) = (f·ŵ)·x + (b − mean)·f + β with f = γ / √(variance + ε): the same integers on other scales.

    Where f is negative, numbers are mirrored at the zero point; where the grid has no room for that, BN stays.
    """
    for normalization in [node for node in model.graph if node.op_type == "BatchNormalization"]:
        values = normalization.inputs[0]
        convolution = values.producer() if values is not None else None
        if convolution is None or convolution.op_type != "Conv" or not _is_private(convolution.outputs[0]):
            continue
        weight = _weight(convolution)
        if weight is not None and not normalization.outputs[0].is_graph_output() and _fold(normalization, weight):
            _put_bias(convolution, *_scale_and_shift(normalization))
            normalization.outputs[0].replace_all_uses_with(convolution.outputs[0])
            model.graph.remove(normalization, safe=True)


def fit_biases(model: ir.Model) -> None:
    """Make weight scales so large that |bias| ≤ 2³⁰ · input scale · weight scale.

    It concerns outputs whose weights are next to nothing beside their bias (a dead channel): what rounding them on the
    larger scale changes is some 2⁻³⁰ of the bias for each input.
    """
    for node in model.graph:
        bias = node.inputs[2] if node.op_type in BIASED and len(node.inputs) > 2 else None
        if bias is None or bias.const_value is None:
            continue
        weight, input_scale = _weight(node), _input_scale(node)
        if weight is not None and input_scale is not None:
            _raise_scales(weight, np.abs(_value(bias)).astype(np.float32) / (input_scale * LARGEST_BIAS))


def _raise_scales(weight: Weight, least: Floats) -> None:
    """Lay the numbers again where a scale is below `least` [out]."""
    old = weight.scale
    scale = np.maximum(old, least if old.ndim else least.max())
    if bool((scale > old).any()):
        zero_point = weight.beside(weight.zero_point)
        exact = (weight.numbers - zero_point) * weight.beside(old / scale)
        weight.write(np.rint(exact).astype(np.int64) + zero_point, scale)


def _fold(normalization: ir.Node, weight: Weight) -> bool:
    """Put the factors into the weight, and say whether that went."""
    factor, _ = _scale_and_shift(normalization)
    limits = np.iinfo(_value(weight.node.inputs[0]).dtype)
    zero_point = weight.beside(weight.zero_point)
    numbers = np.where(weight.beside(factor < 0), 2 * zero_point - weight.numbers, weight.numbers)
    if numbers.min() < limits.min or numbers.max() > limits.max:
        return False
    weight.write(numbers, np.maximum(weight.scale * np.abs(factor), SMALLEST_SCALE))
    return True


def _scale_and_shift(normalization: ir.Node) -> tuple[Floats, Floats]:
    """f [out] and β − mean · f [out]."""
    gamma, beta, mean, variance = (_value(value).astype(np.float64) for value in normalization.inputs[1:5])
    epsilon = normalization.attributes.get_float("epsilon", 1e-5)
    factor = gamma / np.sqrt(variance + epsilon)
    return factor.astype(np.float32), (beta - mean * factor).astype(np.float32)


def _put_bias(convolution: ir.Node, factor: Floats, shift: Floats) -> None:
    if len(convolution.inputs) > 2 and convolution.inputs[2] is not None:
        _put(convolution, 2, _value(convolution.inputs[2]) * factor + shift)
        return
    convolution.resize_inputs(3)
    bias = _constant(_graph(convolution), f"{convolution.name}_bias", ir.tensor(shift))
    convolution.replace_input_with(2, bias)


def _weight(node: ir.Node) -> Weight | None:
    """The stored weight of an operator, when nothing else reads it and its scales are those of outputs or of all."""
    axis = {"Conv": 0, "ConvTranspose": 1, "Gemm": int(not node.attributes.get_int("transB", 0))}[node.op_type]
    if node.op_type == "ConvTranspose" and node.attributes.get_int("group", 1) > 1:
        return None
    for maker in _makers(node.inputs[1]):
        if maker.op_type == "Transpose":
            axis = 1 - axis
        elif maker.op_type == "DequantizeLinear" and all(map(_is_constant, maker.inputs)):
            rank = len(_value(maker.inputs[1]).shape)
            fits = rank == 0 or (rank == 1 and maker.attributes.get_int("axis", 1) == axis)
            return Weight(maker, axis) if fits else None
    return None


def _makers(value: ir.Value | None) -> Iterator[ir.Node]:
    """The nodes that make a value, last first, as long as each has one reader."""
    while value is not None and _is_private(value):
        maker = value.producer()
        if maker is None:
            return
        yield maker
        value = maker.inputs[0]


def _input_scale(node: ir.Node) -> float | None:
    maker = node.inputs[0].producer() if node.inputs[0] is not None else None
    if maker is None or maker.op_type != "DequantizeLinear" or not _is_constant(maker.inputs[1]):
        return None
    return float(_value(maker.inputs[1]))


def _is_constant(value: ir.Value | None) -> bool:
    return value is None or value.const_value is not None


def _is_private(value: ir.Value) -> bool:
    return len(value.uses()) == 1 and not value.is_graph_output()


def _value(value: ir.Value | None) -> Array:
    assert value is not None
    assert value.const_value is not None, value.name
    return np.asarray(value.const_value.numpy())


def _put(node: ir.Node, index: int, array: Array) -> None:
    """Give a node another constant: under the old one's name, when nothing else reads that."""
    old = node.inputs[index]
    assert old is not None
    graph, name = _graph(node), str(old.name)
    if len(old.uses()) == 1:
        graph.initializers.pop(name)
    else:
        name = f"{name}_{node.name}"
    node.replace_input_with(index, _constant(graph, name, ir.tensor(np.ascontiguousarray(array))))


def _constant(graph: ir.Graph, name: str, tensor: ir.TensorProtocol) -> ir.Value:
    """A new initializer; one of this name that is there already is the same."""
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
