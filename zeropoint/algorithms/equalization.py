"""Equalization: give the channels between two layers similar ranges, which changes nothing in float.

    W₂ · f(W₁ · x + b₁) = (W₂ · S) · f(S⁻¹ · W₁ · x + S⁻¹ · b₁),   s_i = √(r₁_i · r₂_i) / r₂_i

Source: Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction" (ICCV 2019), section 4.1,
equation 11. f keeps a positive factor of each channel (`graph.producers`). r₂_i is max|W₂| over the weights that read
channel i. r₁_i is the calibrated max|f(…)_i| in place of the weight's: static inputs have one scale for all channels,
while each row of W₁ has its own. s is rounded to powers of two, so that nothing is rounded in the first layer, whose
quantized values stay the same: its scales and bias absorb 1 / s.

A channel that is nearly 0 in calibration would get a tiny s, and clip at the first larger value. So each range is
raised to at least 1 / `LEAST` of what the first layer's weights would give, going by the liveliest channel.
"""

from dataclasses import replace

import torch
from torch import Tensor

from zeropoint.algorithms.context import AlgorithmContext, Layers, targeted
from zeropoint.layers.absorption import beside_outputs, can_absorb, outputs
from zeropoint.layers.corrections import beside_weight
from zeropoint.layers.quantize import column_abs_max, column_max, requantize_layer
from zeropoint.layers.quantized_layer import QuantizedLayer
from zeropoint.model.layer import TRANSPOSED, Layer
from zeropoint.schema.algorithms import Equalization

LEAST = 16
LARGEST_EXPONENT = 32


def equalize(settings: Equalization, context: AlgorithmContext, layers: Layers) -> Layers:
    """Return the equalized layers: those with static inputs that one other layer produces."""
    by_name = {layer.name: layer for layer in context.source.layers}
    changed = {}
    for name, layer in targeted(layers, settings.layer_types).items():
        producer = by_name.get(context.producers.get(name, ""))
        if producer is None or not _can(layer, producer, context, layers):
            continue
        scale = input_scale(layer.layer, producer, layers.get(producer.name), _abs_max(context, name))
        if bool((scale != 1).any()):
            equalized = requantize_layer(layer, context.statistics[name], scale, None)
            changed[name] = replace(equalized, scaled_by=producer.name)
    return changed


def input_scale(layer: Layer, producer: Layer, absorbing: QuantizedLayer | None, abs_max: Tensor) -> Tensor:
    """Return 1 / s for each input of `layer`, float32 [in], in powers of two; `abs_max` is max|x| [in].

    `absorbing`: the producer as it is quantized; None: it stays in float. Where a weight, bias or scale would no longer
    be exact, the result is 1.
    """
    out = outputs(producer)
    columns = column_abs_max(layer).reshape(out, -1).amax(1)
    factors = equalizing(abs_max.reshape(out, -1).amax(1), columns, _rows(producer))
    return factors.where(_is_exact(layer, producer, absorbing, factors), 1.0).repeat_interleave(len(abs_max) // out)


def equalizing(reach: Tensor, columns: Tensor, rows: Tensor) -> Tensor:
    """Return 1 / s [out], in powers of two around a median of 1, for r₁ [out], r₂ [out] and max|W₁| of each row [out].

    Columns of zeros count like the smallest other one; a channel that is always 0 keeps 1.
    """
    used, moving = columns > 0, rows > 0
    if not bool(used.any()) or not bool(reach.any()):
        return torch.ones_like(reach)
    columns = columns.where(used, columns[used].min())
    if bool(moving.any()):
        reach = torch.maximum(reach, rows * (reach[moving] / rows[moving]).max() / LEAST)
    alive = (reach > 0) & torch.isfinite(reach)
    exponents = torch.zeros_like(reach)
    exponents[alive] = (columns[alive].log2() - reach[alive].log2()) / 2
    exponents[alive] -= exponents[alive].median()
    return torch.exp2(exponents.round().clamp(-LARGEST_EXPONENT, LARGEST_EXPONENT))


def _is_exact(layer: Layer, producer: Layer, absorbing: QuantizedLayer | None, factors: Tensor) -> Tensor:
    """Return for each channel [out] whether weights, bias and scales can be multiplied and divided without rounding."""
    axis, of_rows = producer.output_axis, beside_outputs(factors, producer)
    exact = _kept(producer.weight.cpu(), of_rows).movedim(axis, 0).flatten(1).all(1)
    if producer.bias is not None:
        exact &= _kept(producer.bias.detach().cpu(), factors)
    if absorbing is not None and absorbing.qparams is not None:
        exact &= _kept(absorbing.qparams.scale.reshape(len(factors), -1), factors.reshape(-1, 1)).all(1)
    repeated = factors.repeat_interleave(len(column_abs_max(layer)) // len(factors))
    weight = layer.weight.cpu()
    of_columns = 1 / beside_weight(repeated, weight.shape, transposed=layer.kind in TRANSPOSED)
    rounded = column_max((~_kept(weight, of_columns)).float(), layer)
    return exact & (rounded.reshape(len(factors), -1).amax(1) == 0)


def _kept(values: Tensor, factor: Tensor) -> Tensor:
    """Return whether a product is finite, and no smaller than float32 keeps in full."""
    product = (values * factor).abs()
    return torch.isfinite(product) & ((values == 0) | (product >= torch.finfo(torch.float32).tiny))


def _rows(producer: Layer) -> Tensor:
    """Return max|W| over the weights of each output, float32 [out]."""
    weight = producer.weight.cpu().float().abs()
    return weight.movedim(producer.output_axis, 0).flatten(1).amax(1)


def _can(layer: QuantizedLayer, producer: Layer, context: AlgorithmContext, layers: Layers) -> bool:
    statistics = context.statistics.get(layer.layer.name)
    if layer.activation is None or statistics is None or statistics.channels is None:
        return False
    if layer.pre_quant_scale is not None or layer.outliers is not None or producer.module is None:
        return False
    weights = [other.weight_name for other in context.source.layers if other.module is not None]
    alone = weights.count(producer.weight_name) == weights.count(layer.layer.weight_name) == 1
    own_bias = producer.bias is None or context.has_own_bias(producer)
    in_float32 = producer.weight.dtype == layer.layer.weight.dtype == torch.float32
    return alone and own_bias and in_float32 and can_absorb(producer, layers.get(producer.name))


def _abs_max(context: AlgorithmContext, name: str) -> Tensor:
    channels = context.statistics[name].channels
    assert channels is not None
    return channels.abs_max
