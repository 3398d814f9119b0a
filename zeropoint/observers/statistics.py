"""Statistics of a layer's input, collected batch by batch for every observer at once; no tensor is kept."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from zeropoint.observers.channels import ChannelStatistics, channel_statistics, merge_channels
from zeropoint.observers.histogram import BINS, Histogram, count, merge

LONGEST_HISTORY = 64
FEWEST_QUARTERS = 4
"""Fewest batches that are divided into quarters."""


@dataclass(frozen=True)
class Statistics:
    """`count` values lie in [`minimum`, `maximum`]; the range is not finite if any value was NaN or infinite.

    `early`: the range after three quarters of the batches; None when there were fewer than four.
    """

    count: int
    minimum: float
    maximum: float
    early: tuple[float, float] | None = None
    histogram: Histogram | None = None
    channels: ChannelStatistics | None = None

    @property
    def finite(self) -> bool:
        """Whether every value was finite."""
        return math.isfinite(self.minimum) and math.isfinite(self.maximum)

    @property
    def late_growth(self) -> float | None:
        """The share of the range that the last quarter of the batches added, 0 to 1; None when there were too few."""
        if self.early is None:
            return None
        width = self.maximum - self.minimum
        return 1 - (self.early[1] - self.early[0]) / width if width > 0 else 0.0


class Collector:
    """Collects statistics of float tensors of any shape; the histogram, which costs most, only on request.

    `channel_axis`: the dimension of single channels to observe, counted from the end (−1); None observes none.
    """

    def __init__(self, *, histogram: bool, channel_axis: int | None = None) -> None:
        self.wants_histogram = histogram
        self.channel_axis = channel_axis
        self.count = 0
        self._channels: ChannelStatistics | None = None
        self._calls = 0
        # floats, not tensors: a small tensor kept here would stop the allocator from returning freed memory below it
        self._range: tuple[float, float] | None = None
        self._histogram: Histogram | None = None
        self._history: list[tuple[float, float]] = []
        self._stride = 1

    @property
    def wants(self) -> tuple[bool, int | None]:
        """What is collected besides the range: whether a histogram, and the axis of single channels."""
        return self.wants_histogram, self.channel_axis

    def observe(self, values: Tensor) -> None:
        """Add the values of a batch. Empty tensors add nothing."""
        if not values.numel():
            return
        low, high = batch = self._limits(values.detach())
        if self._range is not None:
            low, high = _least(low, self._range[0]), -_least(-high, -self._range[1])
        self._range = low, high
        self.count += values.numel()
        self._remember(low, high)
        if self.wants_histogram:
            self._count_bins(values.detach(), *batch)

    def statistics(self) -> Statistics:
        """Return the statistics so far. Raises ValueError when nothing was observed."""
        if self._range is None:
            raise ValueError("nothing was observed")
        early = None
        if self._calls >= FEWEST_QUARTERS:
            early = self._history[3 * self._calls // (4 * self._stride) - 1]
        histogram = self._histogram and replace(self._histogram, counts=self._histogram.counts.cpu())
        return Statistics(self.count, *self._range, early, histogram, self._channels)

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Return the collected state, as JSON and tensors on the CPU; `restored` continues from it exactly.

        `ranges`: float32 [1 + history, 2], the range and its history; `counts`: int64 [4096].
        """
        state: dict[str, Any] = {"histogram": self.wants_histogram, "channel_axis": self.channel_axis}
        state |= {"count": self.count, "calls": self._calls}
        tensors: dict[str, Tensor] = {}
        if self._range is not None:
            tensors["ranges"] = torch.tensor([self._range, *self._history])
            state["stride"] = self._stride
        if self._histogram is not None:
            state |= {"exponent": self._histogram.exponent, "zeros": self._histogram.zeros}
            tensors["counts"] = self._histogram.counts.cpu()
        if self._channels is not None:
            state["positions"] = self._channels.positions
            tensors["channels"] = self._channels.stacked
        return state, tensors

    @classmethod
    def restored(cls, state: Mapping[str, Any], tensors: Mapping[str, Tensor], device: str) -> "Collector":
        """Return the collector that has this `state`. Raises KeyError or ValueError when it is not valid."""
        collector = cls(histogram=state["histogram"], channel_axis=state["channel_axis"])
        collector.count, collector._calls = state["count"], state["calls"]
        if collector.count:
            first, *history = [(low, high) for low, high in tensors["ranges"].tolist()]
            collector._range, collector._history, collector._stride = first, history, state["stride"]
        if "counts" in tensors:
            if tensors["counts"].shape != (BINS,):
                raise ValueError("counts of another number of bins")
            collector._histogram = Histogram(state["exponent"], tensors["counts"].to(device), state["zeros"])
        if "channels" in tensors:
            collector._channels = ChannelStatistics.restored(state["positions"], tensors["channels"])
        return collector

    def _limits(self, values: Tensor) -> tuple[float, float]:
        """Return the range of a batch, and add its channel statistics if channels are observed."""
        if self.channel_axis is None:
            return _numbers(torch.aminmax(values))
        batch = channel_statistics(values, self.channel_axis)
        self._channels = batch if self._channels is None else merge_channels(self._channels, batch)
        return _numbers((batch.minimum.min(), batch.maximum.max()))

    def _remember(self, low: float, high: float) -> None:
        """Append the range to the history every `stride` calls; double the stride when the history gets long."""
        self._calls += 1
        if self._calls % self._stride == 0:
            self._history.append((low, high))
        if len(self._history) == LONGEST_HISTORY:
            self._history = self._history[1::2]
            self._stride *= 2

    def _count_bins(self, values: Tensor, low: float, high: float) -> None:
        largest = max(abs(low), abs(high))
        if math.isfinite(largest):  # if not, the range shows it, and the histogram is never read
            batch = count(values, largest)
            self._histogram = batch if self._histogram is None else merge(self._histogram, batch)


def _least(first: float, second: float) -> float:
    """Return the smaller value; NaN if either is NaN."""
    return first if math.isnan(first) or first < second else second


def _numbers(limits: tuple[Tensor, Tensor]) -> tuple[float, float]:
    """Return both ends, rounded to float32 as qparams need them, in one transfer from the device."""
    low, high = torch.stack(limits).to(torch.float32).tolist()
    return low, high
