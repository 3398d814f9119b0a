"""Outlier split: a few input channels leave the integer product and go through a small one in float.

    y = x̂ · ŵᵀ + x[..., channels] · W[:, channels]ᵀ

The channels are those with the largest calibrated range, as the grid meets them (after smoothing); the grid then spans
the others alone. Their numbers are 0, so what the grid makes of them doesn't count. It is LLM.int8's decomposition
(Dettmers et al., NeurIPS 2022) with the channels fixed at calibration: k / in of the products are in float.
"""

import torch
from torch import Tensor

from zeropoint.algorithms.context import AlgorithmContext, Layers, targeted
from zeropoint.layers.quantize import requantize_layer
from zeropoint.layers.quantized_layer import QuantizedLayer
from zeropoint.schema.algorithms import OutlierSplit

WORTH = 0.8
"""A layer whose range stays above this share of what it was is left alone: less than 2 dB don't pay for the product."""
SMALLEST_SHARE = 8
"""Layers with fewer than so many channels for each one that leaves are left alone."""


def split_outliers(settings: OutlierSplit, context: AlgorithmContext, layers: Layers) -> Layers:
    """The linears with static integer inputs that are wide enough, split."""
    changed: dict[str, QuantizedLayer] = {}
    if not context.products:
        return changed
    for name, layer in targeted(layers, settings.layer_types).items():
        if _can(layer, context, settings.channels):
            channels = context.statistics[name].channels
            assert channels is not None
            abs_max = channels.abs_max if layer.pre_quant_scale is None else channels.abs_max * layer.pre_quant_scale
            widest, narrowed = widest_channels(abs_max, settings.channels)
            if narrowed > WORTH:
                continue
            changed[name] = requantize_layer(layer, context.statistics[name], layer.pre_quant_scale, widest)
    return changed


def widest_channels(abs_max: Tensor, count: int) -> tuple[Tensor, float]:
    """The `count` widest channels by reach [in], int64 in their order, and the share of the range that is left."""
    order = torch.sort(abs_max, descending=True, stable=True).indices
    widest = float(abs_max[order[0]])
    return order[:count].sort().values, float(abs_max[order[count]]) / widest if widest else 1.0


def _can(layer: QuantizedLayer, context: AlgorithmContext, channels: int) -> bool:
    statistics = context.statistics.get(layer.layer.name)
    if layer.layer.kind != "Linear" or layer.activation is None or statistics is None or statistics.channels is None:
        return False
    return layer.settings.granularity != "per_group" and len(statistics.channels.minimum) >= SMALLEST_SHARE * channels
