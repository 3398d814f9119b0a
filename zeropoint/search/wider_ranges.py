"""Let static ranges hold the samples that decided too, after the decisions, where that lowers the noise on them.

Samples that decide about algorithms don't calibrate. So ranges come from fewer samples than those of a recipe without
algorithms, and a value that only the others have is clipped: on networks whose inputs have long tails, that cost up to
14 dB, more than any algorithm gains. A range that was clipped on purpose stays as it is.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from zeropoint.algorithms.context import AlgorithmContext, Layers
from zeropoint.data.batches import Batches
from zeropoint.layers.quantized_layer import QuantizedLayer
from zeropoint.model.hooks import watched
from zeropoint.model.source import Source
from zeropoint.observers.statistics import Statistics
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
    seen = _extremes(context.source, open_ended, samples)
    wider = {name: found for name, extremes in seen.items() if (found := _held(open_ended[name], extremes)) is not None}
    if not wider:
        return candidate
    layers = {**candidate.layers, **wider}
    noise = acceptance.noise(layers.values())
    return replace(candidate, layers=layers, noise=noise) if noise.noise < candidate.noise.noise else candidate


@dataclass
class _Extremes:
    """The smallest and the largest input of a layer's operator so far."""

    low: float = math.inf
    high: float = -math.inf

    def see(self, layer: QuantizedLayer, values: Tensor) -> None:
        """Take in the input of the float layer; channels that stay in float don't count."""
        values = layer.scale_input(values.detach())
        axis = layer.layer.channel_axis
        if layer.outliers is not None and axis is not None:
            values = values.index_fill(axis, layer.outliers.channels.to(values.device), 0)
        if values.numel():
            self.low, self.high = min(self.low, float(values.min())), max(self.high, float(values.max()))


def _extremes(source: Source, layers: Layers, samples: Batches) -> Mapping[str, _Extremes]:
    seen = {name: _Extremes() for name in layers}
    modules = {name: layer.layer.module for name, layer in layers.items()}
    observers = {name: partial(seen[name].see, layer) for name, layer in layers.items()}
    present = {name: module for name, module in modules.items() if module is not None}
    with torch.no_grad(), watched(present, observers) as current:
        for batch in samples:
            current.start(batch)
            source.run(batch)
    source.reset()
    return seen


def _is_clipped(layer: QuantizedLayer, statistics: Statistics | None) -> bool:
    """Return whether the range leaves out calibrated values on purpose; also where there is no static range."""
    activation = layer.activation
    if activation is None:
        return True
    if statistics is None or layer.pre_quant_scale is not None or layer.outliers is not None:
        return False
    nearly = EQUAL * (statistics.maximum - statistics.minimum)
    return activation.minimum > statistics.minimum + nearly or activation.maximum < statistics.maximum - nearly


def _held(layer: QuantizedLayer, seen: _Extremes) -> QuantizedLayer | None:
    """Return the layer with a range that holds what was seen; None if it does already."""
    assert layer.activation is not None
    low, high = layer.activation.minimum, layer.activation.maximum
    if seen.low >= low and seen.high <= high:
        return None
    return ranged(layer, min(low, seen.low), max(high, seen.high))
