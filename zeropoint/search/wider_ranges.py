"""Let static ranges hold the samples that decided too, after the decisions, where that lowers the noise on them.

Samples that decide about algorithms don't calibrate. So ranges come from fewer samples than those of a recipe without
algorithms, and a value that only the others have is clipped: on networks whose inputs have long tails, that cost up to
14 dB, more than any algorithm gains. A range that was clipped on purpose stays as it is.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from zeropoint.algorithms.context import AlgorithmContext, Layers
from zeropoint.data.batches import Batches
from zeropoint.layers.quantized_layer import QuantizedLayer
from zeropoint.model.hooks import watched
from zeropoint.model.source import Source
from zeropoint.observers.statistics import Collector, Statistics
from zeropoint.search.out_of_range import ranged
from zeropoint.search.trial import Candidate
from zeropoint.simulation.measure import Evaluator

EQUAL = 1e-6
"""Ends of ranges that differ by this share of the range are equal: ranges are float32, extremes of the model's type."""


def with_all_samples(
    context: AlgorithmContext, acceptance: Evaluator, samples: Batches, candidate: Candidate
) -> Candidate:
    """Return the candidate with ranges that hold these samples, on which `acceptance` measures; as it was if worse."""
    statistics = context.statistics
    open_ended = {n: layer for n, layer in candidate.layers.items() if not _is_clipped(layer, statistics.get(n))}
    seen = _ranges(context.source, open_ended, samples)
    wider = {name: found for name, range_ in seen.items() if (found := _held(open_ended[name], range_)) is not None}
    if not wider:
        return candidate
    layers = {**candidate.layers, **wider}
    noise = acceptance.noise(layers.values())
    return replace(candidate, layers=layers, noise=noise) if noise.noise < candidate.noise.noise else candidate


def _ranges(source: Source, layers: Layers, samples: Batches) -> Mapping[str, Statistics]:
    """Return the ranges of what these layers quantize, on these samples; layers that none reaches are left out."""
    collectors = {name: Collector(histogram=False) for name in layers}
    modules = {name: layer.layer.module for name, layer in layers.items()}
    observers = {name: partial(_observe, layer, collectors[name]) for name, layer in layers.items()}
    present = {name: module for name, module in modules.items() if module is not None}
    with torch.no_grad(), watched(present, observers) as current:
        for batch in samples:
            current.start(batch)
            source.run(batch)
    source.reset()
    return {name: collector.statistics() for name, collector in collectors.items() if collector.count}


def _observe(layer: QuantizedLayer, collector: Collector, values: Tensor) -> None:
    """Show the input of the float layer as it will be quantized; channels that stay in float don't count."""
    values = layer.scale_input(values.detach())
    axis = layer.layer.channel_axis
    if layer.outliers is not None and axis is not None:
        values = values.index_fill(axis, layer.outliers.channels.to(values.device), 0)
    collector.observe(values)


def _is_clipped(layer: QuantizedLayer, statistics: Statistics | None) -> bool:
    """Return whether the range leaves out calibrated values on purpose; also where there is no static range."""
    activation = layer.activation
    if activation is None:
        return True
    if statistics is None or layer.pre_quant_scale is not None or layer.outliers is not None:
        return False
    nearly = EQUAL * (statistics.maximum - statistics.minimum)
    return activation.minimum > statistics.minimum + nearly or activation.maximum < statistics.maximum - nearly


def _held(layer: QuantizedLayer, seen: Statistics) -> QuantizedLayer | None:
    """Return the layer with a range that holds what was seen; None if it does already, or if no range can."""
    assert layer.activation is not None
    low, high = layer.activation.minimum, layer.activation.maximum
    if not seen.finite or (seen.minimum >= low and seen.maximum <= high):
        return None
    return ranged(layer, min(low, seen.minimum), max(high, seen.maximum))
