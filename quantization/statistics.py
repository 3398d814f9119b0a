"""Statistics of what a layer is given: collected batch by batch, for every observer at once; no tensor is kept."""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from quantization.histogram import Histogram, count, merge

LONGEST_HISTORY = 64
FEWEST_QUARTERS = 4
"""Batches below which there is no last quarter to speak of."""


@dataclass(frozen=True)
class Statistics:
    """`count` values lay in [`minimum`, `maximum`]. NaN or infinity, once seen, is in the range.

    `early`: the range after three quarters of the batches; None when there were fewer than four.
    """

    count: int
    minimum: float
    maximum: float
    early: tuple[float, float] | None = None
    histogram: Histogram | None = None

    @property
    def finite(self) -> bool:
        """Whether every value was a number."""
        return math.isfinite(self.minimum) and math.isfinite(self.maximum)

    @property
    def late_growth(self) -> float | None:
        """Share of the range that came with the last quarter of the batches, 0 to 1; None when that is not known."""
        if self.early is None:
            return None
        width = self.maximum - self.minimum
        return 1 - (self.early[1] - self.early[0]) / width if width > 0 else 0.0


class Collector:
    """Takes float tensors of any shape, gives their statistics. The histogram costs most: only on request."""

    def __init__(self, *, histogram: bool) -> None:
        self._wants_histogram = histogram
        self.count = 0
        self._calls = 0
        self._range: tuple[Tensor, Tensor] | None = None
        self._histogram: Histogram | None = None
        self._history: list[tuple[Tensor, Tensor]] = []
        self._stride = 1

    def observe(self, values: Tensor) -> None:
        """Take a batch in. Empty tensors say nothing."""
        if not values.numel():
            return
        low, high = batch = torch.aminmax(values.detach())
        if self._range is not None:
            low, high = torch.minimum(low, self._range[0]), torch.maximum(high, self._range[1])
        self._range = low, high
        self.count += values.numel()
        self._remember(low, high)
        if self._wants_histogram:
            self._count_bins(values.detach(), *batch)

    def statistics(self) -> Statistics:
        """What was seen so far. Raises ValueError when that is nothing."""
        if self._range is None:
            raise ValueError("nothing was observed")
        early = None
        if self._calls >= FEWEST_QUARTERS:
            early = _numbers(self._history[3 * self._calls // (4 * self._stride) - 1])
        histogram = self._histogram and replace(self._histogram, counts=self._histogram.counts.cpu())
        return Statistics(self.count, *_numbers(self._range), early, histogram)

    def _remember(self, low: Tensor, high: Tensor) -> None:
        """Keep the range after every `stride` calls; twice the stride when that gets long."""
        self._calls += 1
        if self._calls % self._stride == 0:
            self._history.append((low, high))
        if len(self._history) == LONGEST_HISTORY:
            self._history = self._history[1::2]
            self._stride *= 2

    def _count_bins(self, values: Tensor, low: Tensor, high: Tensor) -> None:
        largest = max(abs(bound) for bound in _numbers((low, high)))
        if math.isfinite(largest):  # if not, the range says so, and nobody will read the histogram
            batch = count(values, largest)
            self._histogram = batch if self._histogram is None else merge(self._histogram, batch)


def _numbers(limits: tuple[Tensor, Tensor]) -> tuple[float, float]:
    """As float32, which is what grids are made of, and in one transfer from the device."""
    low, high = torch.stack(limits).to(torch.float32).tolist()
    return low, high
