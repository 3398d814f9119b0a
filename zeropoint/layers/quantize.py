"""Quantization of one layer: its weight, the qparams of its input, and both again after a correction."""

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from zeropoint.files.mapped import map_file
from zeropoint.files.safetensors import save_tensors
from zeropoint.layers.quantized_layer import Activation, Outliers, QuantizedLayer, input_spec
from zeropoint.layers.selection import Choice
from zeropoint.layers.weights import concatenate_rows, dequantize_weight, has_qparams_per_row, quantize_weight
from zeropoint.metrics.sqnr import Noise
from zeropoint.model.layer import TRANSPOSED, Layer
from zeropoint.observers.statistics import Statistics
from zeropoint.primitives.qparams import QParams
from zeropoint.schema.recipe import ActivationSettings


def spill_to_disk(layer: QuantizedLayer, path: Path) -> QuantizedLayer:
    """Move a layer's quantized values, scales and zero points to a new file at `path`, and return that layer.

    The file must stay as long as the layer is used. Raises OSError.
    """
    qparams = layer.qparams
    params = {} if qparams is None else {"scale": qparams.scale, "zero_point": qparams.zero_point}
    save_tensors({"weight": layer.weight, **params}, path, {})
    file = map_file(path)
    if qparams is not None:  # in groups of 32, scales and zero points weigh nearly as much as the values
        qparams = replace(qparams, scale=file.tensors["scale"], zero_point=file.tensors["zero_point"])
    return replace(layer, weight=file.tensors["weight"], qparams=qparams, file=file)


def quantize_layer(choice: Choice, activation: Activation | None) -> QuantizedLayer:
    """Quantize the weight [out, ...] of a layer to the recipe's dtype, and measure its SQNR."""
    noise, stored = Noise(), choice.layer.stored
    axis = choice.layer.scale_axis(choice.weights.axis)
    values: list[Tensor] = []
    params: list[QParams] = []
    whole = stored is None or not has_qparams_per_row(choice.weights, axis)
    for block in (choice.layer.weight.cpu(),) if whole or stored is None else stored.blocks():
        quantized, qparams = quantize_weight(block, choice.weights, axis, choice.layer.scale_dtype)
        noise.add(block, dequantize_weight(quantized, qparams))
        values.append(quantized)
        params.extend([] if qparams is None else [qparams])
    weight, qparams = torch.cat(values) if len(values) > 1 else values[0], concatenate_rows(params) if params else None
    return QuantizedLayer(choice.layer, choice.weights, weight, qparams, activation, noise.db)


def requantize_layer(
    layer: QuantizedLayer, statistics: Statistics | None, pre_quant_scale: Tensor | None, channels: Tensor | None
) -> QuantizedLayer:
    """Return the layer with its input multiplied by `pre_quant_scale` [in], and these `channels` [k] in float.

    The weight is quantized again, rounded to nearest; `statistics` give the range of the input channels that stay.
    """
    weight = layer.layer.weight.cpu()
    outliers = None if channels is None else Outliers(channels, weight[:, channels].contiguous())
    changed = replace(layer, pre_quant_scale=pre_quant_scale, scaled_by=None, outliers=outliers, rounding="nearest")
    axis = layer.layer.scale_axis(layer.settings.axis)
    quantized, qparams = quantize_weight(changed.target_weight, layer.settings, axis, layer.layer.scale_dtype)
    activation = layer.activation
    if activation is not None and statistics is not None:
        activation = _activation(layer.layer, activation.settings, statistics, pre_quant_scale, channels)
    return with_quantized_values(replace(changed, qparams=qparams, activation=activation), quantized)


def with_quantized_values(layer: QuantizedLayer, quantized: Tensor) -> QuantizedLayer:
    """Return the layer with these quantized values [out, ...] under its qparams, and measure its SQNR."""
    changed, noise = replace(layer, weight=quantized, file=None), Noise()
    noise.add(layer.layer.weight.cpu(), changed.effective_weight)
    return replace(changed, weight_sqnr_db=noise.db)


def column_abs_max(layer: Layer) -> Tensor:
    """Return max|W| over the weights that multiply an input channel, float32 [in]."""
    return column_max(layer.weight.cpu().float().abs(), layer)


def column_max(values: Tensor, layer: Layer) -> Tensor:
    """Return the largest of `values`, in the weight's shape, over the weights that multiply an input channel: [in]."""
    if layer.kind in TRANSPOSED:
        return values.flatten(1).amax(1)
    rows = values.flatten(2).amax(2) if values.dim() > 2 else values
    groups = layer.module.groups if isinstance(layer.module, nn.modules.conv._ConvNd) else 1
    return rows.reshape(groups, -1, rows.shape[1]).amax(1).flatten()


def _activation(
    layer: Layer,
    settings: ActivationSettings,
    statistics: Statistics,
    pre_quant_scale: Tensor | None,
    channels: Tensor | None,
) -> Activation:
    """Return the input's qparams from the channels' ranges, since a histogram of all channels no longer fits them."""
    assert statistics.channels is not None, layer.name
    low, high = statistics.channels.minimum, statistics.channels.maximum
    if pre_quant_scale is not None:
        low, high = low * pre_quant_scale, high * pre_quant_scale
    if channels is not None:
        stays = torch.ones(len(low), dtype=torch.bool)
        stays[channels] = False
        low, high = low[stays], high[stays]
    return Activation.choose(settings, input_spec(layer, settings), low.min(), high.max())
