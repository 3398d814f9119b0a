"""Layers that absorb the input scale of the layer they feed: a factor for each output, in their scales and their bias.

    ŵ_o · f_o = (q_o − zero_point_o) · (scale_o · f_o),   b_o · f_o

The factors are powers of two, so that nothing is rounded, and the quantized values don't change. A layer that stays in
float absorbs them in its weight.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace

from torch import Tensor

from zeropoint.layers.quantized_layer import QuantizedLayer
from zeropoint.model.layer import TRANSPOSED, Layer


def absorbed_factors(
    scales: Mapping[str, Tensor | None], scaled_by: Mapping[str, str | None], layers: Iterable[Layer]
) -> dict[str, Tensor]:
    """Return layer -> the factor of each output, float32 [out], for those of `layers` that absorb an input scale.

    `scales`: `pre_quant_scale` [in] by layer, `scaled_by`: by layer, what absorbs it. Several neighbouring inputs of
    one factor are one output, as after flattening.
    """
    absorbing = {name: scale for layer, name in scaled_by.items() if name and (scale := scales[layer]) is not None}
    return {
        layer.name: absorbing[layer.name].reshape(outputs(layer), -1)[:, 0]
        for layer in layers
        if layer.name in absorbing and layer.module is not None
    }


def outputs(layer: Layer) -> int:
    """Return the number of a linear's or convolution's outputs; of a transposed convolution it must have one group."""
    return int(layer.weight.shape[layer.output_axis])


def beside_outputs(factors: Tensor, layer: Layer) -> Tensor:
    """Return factors [out] in a shape that broadcasts over the weight."""
    axis = layer.output_axis
    return factors.reshape([-1 if dimension == axis else 1 for dimension in range(layer.weight.dim())])


def with_factors(layer: QuantizedLayer, factors: Tensor) -> QuantizedLayer:
    """Return the layer with each output multiplied by its factor [out]."""
    qparams, bias = layer.qparams, layer.layer.bias if layer.bias is None else layer.bias
    assert qparams is not None, layer.layer.name
    factor = factors.reshape(-1, *[1] * (qparams.scale.dim() - 1)).to(qparams.scale.dtype)
    scaled = None if bias is None else bias.detach().cpu() * factors.to(bias.dtype)
    return replace(layer, qparams=replace(qparams, scale=qparams.scale * factor), bias=scaled)


def float_tensors(layer: Layer, factors: Tensor) -> dict[str, Tensor]:
    """Return the weight and the bias of a layer in float by name, with each output multiplied by its factor [out]."""
    weight = layer.weight.cpu()
    tensors = {str(layer.weight_name): weight * beside_outputs(factors, layer).to(weight.dtype)}
    if layer.bias is not None:
        tensors[str(layer.bias_name)] = layer.bias.detach().cpu() * factors.to(layer.bias.dtype)
    return tensors


def can_absorb(layer: Layer, quantized: QuantizedLayer | None) -> bool:
    """Return whether the scales of a quantized layer, or the weight of one in float, have a place for each output."""
    groups = getattr(layer.module, "groups", 1)
    if layer.layout is not None or layer.is_held or layer.computed or (layer.kind in TRANSPOSED and groups > 1):
        return False
    if quantized is None:
        return True
    qparams = quantized.qparams
    if qparams is None or qparams.scale.dim() == 0 or qparams.scale.dtype != layer.weight.dtype:
        return False
    return qparams.group_size is not None or qparams.axis == layer.output_axis
