"""Smoothing: channels with a wide range are narrowed, and the weight's columns that read them made larger.

    y = (x / s) · (s · W)ᵀ,   s_c = max|x_c|^α / max|W_c|^(1 − α)

Source: Xiao et al., "SmoothQuant" (ICML 2023), equation 4. Layers that read the same values share s, which then looks
at the largest of their weights. Where a normalization can carry 1 / s (`Bench.carriers`), nothing multiplies at run
time.

A channel that calibration hardly saw would get an s of next to nothing, and clip as soon as it says something. Ranges
are taken to be no smaller than one step of the plain 8-bit grid over the whole input, which can't tell them from 0.
"""

from dataclasses import replace

import torch
from torch import Tensor

from zeropoint.algorithms.context import Bench, Layers, meant
from zeropoint.layers.quantize import lay_again, reach_of_columns
from zeropoint.layers.quantized_layer import QuantizedLayer
from zeropoint.schema.algorithms import Smoothing

STEPS = 256


def smooth(settings: Smoothing, bench: Bench, layers: Layers) -> Layers:
    """The layers with static integer inputs, smoothed; those whose channels were not watched are left out."""
    own = {n: one for n, one in meant(layers, settings.layer_types).items() if _can(one, bench)}
    changed = {}
    for names in bench.multipliable(own):
        reach = _reach(bench, names[0])
        weights = torch.stack([reach_of_columns(own[name].layer) for name in names]).amax(0)
        scale = 1 / factors(reach, weights, settings.alpha)
        for name in names:
            outliers = own[name].outliers
            smoothed = lay_again(
                own[name], bench.statistics[name], scale, None if outliers is None else outliers.channels
            )
            changed[name] = replace(smoothed, scaled_by=bench.carrier(names))
    return changed


def factors(reach: Tensor, weights: Tensor, alpha: float) -> Tensor:
    """s [in] of max|x| [in] and max|W| [in]; 1 throughout where either is all zeros."""
    if not bool(reach.any()) or not bool(weights.any()):
        return torch.ones_like(reach)
    reach = reach.clamp(min=float(reach.max()) / STEPS)
    weights = weights.clamp(min=float(weights.max()) / STEPS)
    return reach**alpha / weights ** (1 - alpha)


def _can(layer: QuantizedLayer, bench: Bench) -> bool:
    statistics = bench.statistics.get(layer.layer.name)
    return layer.activation is not None and statistics is not None and statistics.channels is not None


def _reach(bench: Bench, name: str) -> Tensor:
    channels = bench.statistics[name].channels
    assert channels is not None
    return channels.reach
