"""Outlier split: multiply a few input channels in float, and the others in integers.

    y = x̂ · ŵᵀ + x[..., channels] · W[:, channels]ᵀ

The channels in float are those with the largest calibrated range, after smoothing; the input's qparams then cover only
the others. The quantized weight is 0 in their columns, so their quantized inputs don't count. It is the decomposition
of LLM.int8 (Dettmers et al., NeurIPS 2022) with channels fixed at calibration: k / in of the products are in float.
"""

import torch
from torch import Tensor

from zeropoint.algorithms.context import AlgorithmContext, Layers, targeted
from zeropoint.layers.quantize import requantize_layer
from zeropoint.layers.quantized_layer import QuantizedLayer
from zeropoint.schema.algorithms import OutlierSplit

WORTH = 0.8
"""A layer is split only if its range shrinks to at most this share: a gain below 2 dB isn't worth the float product."""
SMALLEST_SHARE = 8
"""A layer is split only if it has at least this many input channels for each one moved to float."""


def split_outliers(settings: OutlierSplit, context: AlgorithmContext, layers: Layers) -> Layers:
    """Return the split layers: linears with static inputs and enough input channels."""
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
    """Return the `count` channels with the largest max|x| [in], int64 ascending, and the share of the range left."""
    order = torch.sort(abs_max, descending=True, stable=True).indices
    widest = float(abs_max[order[0]])
    return order[:count].sort().values, float(abs_max[order[count]]) / widest if widest else 1.0


def _can(layer: QuantizedLayer, context: AlgorithmContext, channels: int) -> bool:
    statistics = context.statistics.get(layer.layer.name)
    if layer.layer.kind != "Linear" or layer.activation is None or statistics is None or statistics.channels is None:
        return False
    return layer.settings.granularity != "per_group" and len(statistics.channels.minimum) >= SMALLEST_SHARE * channels
