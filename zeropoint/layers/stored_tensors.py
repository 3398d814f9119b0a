"""The tensors that are stored for a quantized layer: their names, values and bytes."""

from dataclasses import replace

from torch import Tensor

from zeropoint.layers.quantized_layer import QuantizedLayer
from zeropoint.layers.weights import WeightNames, as_stored, to_tensors
from zeropoint.model.layer import Layer


def weight_names(layer: Layer) -> WeightNames:
    """Return the names under which a quantized weight is stored."""
    return WeightNames(str(layer.weight_name), layer.stored_name("scale"), layer.stored_name("zero_point"))


def bias_name(quantized: QuantizedLayer) -> str:
    """Return the name under which the bias is stored, also where only quantization gives the layer one."""
    return quantized.layer.stored_name("bias")


def stored_tensors(quantized: QuantizedLayer) -> dict[str, Tensor]:
    """Return the tensors that are stored in place of the float weight, by name, corrections included."""
    layer = quantized.layer
    stored = to_tensors(weight_names(layer), quantized.settings, quantized.weight, quantized.qparams)
    if layer.layout is not None:
        stored = {name: layer.layout.stored(tensor).contiguous() for name, tensor in stored.items()}
    elif layer.transposed:
        stored = {name: as_stored(tensor) for name, tensor in stored.items()}
    if quantized.activation is not None:
        stored[layer.stored_name("input_scale")] = quantized.activation.qparams.scale
        stored[layer.stored_name("input_zero_point")] = quantized.activation.qparams.zero_point
    return stored | stored_corrections(quantized)


def stored_corrections(quantized: QuantizedLayer) -> dict[str, Tensor]:
    """Return the tensors that error compensation stores beside the quantized weight, by name."""
    layer, stored = quantized.layer, dict[str, Tensor]()
    if quantized.pre_quant_scale is not None:
        stored[layer.stored_name("pre_quant_scale")] = quantized.pre_quant_scale
    if quantized.outliers is not None:
        stored[layer.stored_name("outlier_channels")] = quantized.outliers.channels
        stored[layer.stored_name("outlier_weight")] = _outlier_weight(quantized)
    if quantized.bias is not None:
        stored[bias_name(quantized)] = quantized.bias
    return stored


def stored_sizes(quantized: QuantizedLayer) -> dict[str, int]:
    """Return the bytes of each stored tensor, by name; no value is read for it."""
    outline = replace(quantized, weight=quantized.weight.to("meta"))
    return {name: tensor.nbytes for name, tensor in stored_tensors(outline).items()}


def stored_bytes(quantized: QuantizedLayer) -> int:
    """Return the bytes that are stored for this layer, the float bias included."""
    bias = quantized.layer.bias
    float_bias = 0 if bias is None or quantized.bias is not None else bias.nbytes
    return sum(stored_sizes(quantized).values()) + float_bias


def _outlier_weight(quantized: QuantizedLayer) -> Tensor:
    """Return [out, k], divided by `pre_quant_scale` where a normalization multiplies the inputs by it."""
    assert quantized.outliers is not None
    weight, scale = quantized.outliers.weight, quantized.pre_quant_scale
    if scale is None or quantized.scaled_by is None:
        return weight
    return (weight.float() / scale[quantized.outliers.channels]).to(weight.dtype)
