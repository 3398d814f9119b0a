"""Smoothing: channels with a wide range are narrowed, and the weight's columns that read them made larger.

    y = (x / s) · (s · W)ᵀ,   s_c = max|x_c|^α / max|W_c|^(1 − α)

Source: Xiao et al., "SmoothQuant" (ICML 2023), equation 4. Layers that read the same values share s, which then looks
at the largest of their weights. Where a normalization can carry 1 / s (`AlgorithmContext.norm_mappings`), nothing
multiplies at run time.

A channel that calibration hardly saw would get an s of next to nothing, and clip as soon as it says something. Ranges
are taken to be no smaller than one step of the plain 8-bit grid over the whole input, which can't tell them from 0.
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
    """The layers with static integer inputs, smoothed; those whose channels were not watched are left out."""
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
    """s [in] of max|x| [in] and max|W| [in]; 1 throughout where either is all zeros."""
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
