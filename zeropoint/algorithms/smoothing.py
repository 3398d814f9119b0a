"""Smoothing: scale down input channels with a wide range, and scale up the weight columns that read them.

    y = (x / s) · (s · W)ᵀ,   s_c = max|x_c|^α / max|W_c|^(1 − α)

Source: Xiao et al., "SmoothQuant" (ICML 2023), equation 4. Layers that read the same values share s, computed from the
largest of their weights. If a normalization can absorb 1 / s (`AlgorithmContext.norm_mappings`), the input isn't
multiplied at run time.

A channel that is nearly 0 in calibration would get a tiny s, and clip at the first larger value. So each range is
raised to at least one 8-bit step of the whole input's range, below which unsmoothed quantization gives 0 anyway.
"""

from dataclasses import replace

import torch
from torch import Tensor

from zeropoint.algorithms.context import AlgorithmContext, Layers, targeted
from zeropoint.layers.quantize import column_abs_max, requantize_layer
from zeropoint.layers.quantized_layer import QuantizedLayer
from zeropoint.schema.algorithms import Smoothing

STEPS = 256


def smooth(settings: Smoothing, context: AlgorithmContext, layers: Layers) -> Layers:
    """Return the smoothed layers: those with static inputs whose channels were observed."""
    eligible = {n: layer for n, layer in targeted(layers, settings.layer_types).items() if _can(layer, context)}
    changed = {}
    for names in context.scalable_groups(eligible):
        abs_max = _abs_max(context, names[0])
        weights = torch.stack([column_abs_max(eligible[name].layer) for name in names]).amax(0)
        scale = 1 / factors(abs_max, weights, settings.alpha)
        for name in names:
            outliers = eligible[name].outliers
            smoothed = requantize_layer(
                eligible[name], context.statistics[name], scale, None if outliers is None else outliers.channels
            )
            changed[name] = replace(smoothed, scaled_by=context.norm_mapping(names))
    return changed


def factors(abs_max: Tensor, weights: Tensor, alpha: float) -> Tensor:
    """Return s [in] for max|x| [in] and max|W| [in]; all ones if either is all zeros."""
    if not bool(abs_max.any()) or not bool(weights.any()):
        return torch.ones_like(abs_max)
    abs_max = abs_max.clamp(min=float(abs_max.max()) / STEPS)
    weights = weights.clamp(min=float(weights.max()) / STEPS)
    return abs_max**alpha / weights ** (1 - alpha)


def _can(layer: QuantizedLayer, context: AlgorithmContext) -> bool:
    statistics = context.statistics.get(layer.layer.name)
    return layer.activation is not None and statistics is not None and statistics.channels is not None


def _abs_max(context: AlgorithmContext, name: str) -> Tensor:
    channels = context.statistics[name].channels
    assert channels is not None
    return channels.abs_max
