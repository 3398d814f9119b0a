"""Rounding error of a weight: the largest distance between a value and its quantized value, in steps."""

import math

import torch
from torch import Tensor

from zeropoint.layers.quantized_layer import QuantizedLayer
from zeropoint.layers.weights import dequantize_weight, weight_blocks
from zeropoint.primitives.qparams import QParams, step_size
from zeropoint.schema.recipe import WeightSettings


def layer_rounding_error(layer: QuantizedLayer) -> float:
    """Return the largest rounding error of a layer's weight in steps, block by block where it lies in a file."""
    stored, settings = layer.layer.stored, layer.settings
    if stored is None or layer.pre_quant_scale is not None or layer.outliers is not None:
        return max_rounding_error(layer.target_weight, layer.weight, layer.qparams, settings)
    blocks = weight_blocks(stored.blocks(), layer.qparams)
    return max(max_rounding_error(values, layer.weight[rows], qparams, settings) for rows, values, qparams in blocks)


def max_rounding_error(weight: Tensor, quantized: Tensor, qparams: QParams | None, settings: WeightSettings) -> float:
    """Return the largest |w − ŵ| of a float weight [out, ...] in steps at that place; 0 for a cast.

    Infinite when a scale or a value is not valid. What an observer clips on purpose does not count.
    """
    exact, dequantized = weight.float(), dequantize_weight(quantized, qparams)
    if qparams is None:
        return 0.0 if bool(torch.isfinite(dequantized).all()) else math.inf
    quant_type, values = qparams.quant_type, quantized.float()
    inside = bool(((values >= quant_type.quant_min) & (values <= quant_type.quant_max)).all())
    if not inside or not bool((torch.isfinite(qparams.scale) & (qparams.scale > 0)).all()):
        return math.inf
    error = (exact - dequantized).abs()
    if settings.observer.kind != "minmax":  # the others clip on purpose: what lies beyond the ends of the range
        beyond_top = (values == quant_type.quant_max) & (exact > dequantized)
        beyond_bottom = (values == quant_type.quant_min) & (exact < dequantized)
        error = error.masked_fill(beyond_top | beyond_bottom, 0)
    return float((error / step_size(quantized, qparams)).max())
