"""Percentile: the range leaves out the same share of the values at both ends.

    minimum = quantile(1 − p/100)        maximum = quantile(p/100)

A quantile between two values lies on the line between them (type 7 of Hyndman and Fan, "Sample Quantiles in Statistical
Packages", 1996, what `torch.quantile` does); in a histogram, values are taken to be spread evenly over their bin.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from zeropoint.observers.histogram import Histogram
from zeropoint.observers.observer import QuantizationSpec, Range
from zeropoint.observers.statistics import Statistics


@dataclass(frozen=True)
class Percentile:
    """`percentile` in percent, 100 being min-max."""

    percentile: float
    needs_histogram: ClassVar[bool] = True

    def of_statistics(self, statistics: Statistics, _: QuantizationSpec) -> Range:
        assert statistics.histogram is not None
        share = self.percentile / 100
        bounds = torch.stack([quantile(statistics.histogram, 1 - share), quantile(statistics.histogram, share)])
        low, high = bounds.clamp(statistics.minimum, statistics.maximum).to(torch.float32)
        return low, high

    def of_rows(self, rows: Tensor, _: QuantizationSpec) -> Range:
        share = self.percentile / 100
        ordered = rows.to(torch.float32).sort(dim=-1).values
        return _between(ordered, 1 - share), _between(ordered, share)


def quantile(histogram: Histogram, share: float) -> Tensor:
    """Return the value, float64 [], below which `share` of the values lie; exact to the width of a bin."""
    below = histogram.counts.cumsum(0)
    rank = share * (int(below[-1]) - 1)
    ranks = torch.tensor([int(rank), min(int(rank) + 1, int(below[-1]) - 1)])
    bins = torch.searchsorted(below, ranks, right=True)
    inside = (ranks - below[bins] + histogram.counts[bins] + 0.5) / histogram.counts[bins]
    first, second = torch.lerp(histogram.edges[bins], histogram.edges[bins + 1], inside.to(torch.float64))
    return torch.lerp(first, second, rank - int(rank))


def _between(ordered: Tensor, share: float) -> Tensor:
    """Return the quantile [C] of sorted rows [C, n]."""
    rank = share * (ordered.shape[-1] - 1)
    first = int(rank)
    second = min(first + 1, ordered.shape[-1] - 1)
    return torch.lerp(ordered[:, first], ordered[:, second], rank - first)
