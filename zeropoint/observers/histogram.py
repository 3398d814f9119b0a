"""A histogram with 4096 bins over a power-of-two range, which can widen without the values counted before.

    reach = 2^exponent > max|x|        width = reach / 2048        bin i holds [(i − 2048) · width, (i − 2047) · width)

Scaling a float by a power of two is exact, and so is merging pairs of bins: ⌊⌊y⌋ / 2⌋ = ⌊y / 2⌋. So the result doesn't
depend on the order of batches, or on whether values were counted together or in histograms merged later.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

BINS = 4096
HALF = BINS // 2
SMALLEST_EXPONENT = -100
"""Smaller values are noise in float32; they fall into the two bins beside zero."""
CHUNK = 2**20
"""Values counted at once: few enough for the processor's cache, enough to make the overhead of calls negligible."""


@dataclass(frozen=True)
class Histogram:
    """`counts` int64 [BINS]; `zeros` values in bin HALF are exactly 0 (padding, ReLU) and have no rounding error."""

    exponent: int
    counts: Tensor
    zeros: int

    @property
    def edges(self) -> Tensor:
        """Edges of the bins, float64 [BINS + 1]."""
        steps = torch.arange(-HALF, HALF + 1, dtype=torch.float64, device=self.counts.device)
        return steps * math.ldexp(1.0, self.exponent) / HALF


def count(values: Tensor, largest: float) -> Histogram:
    """Return the histogram of finite float `values` of any shape, `largest` being their greatest magnitude."""
    exponent = max(math.frexp(largest)[1], SMALLEST_EXPONENT) if largest else SMALLEST_EXPONENT
    scale = math.ldexp(1.0, 11 - exponent)
    counts = torch.zeros(BINS, dtype=torch.int64, device=values.device)
    for part in torch.split(values.reshape(-1), CHUNK):
        bins = (part.to(torch.float32) * scale).floor_().add_(HALF)
        counts += torch.bincount(bins.to(torch.int16), minlength=BINS)
    return Histogram(exponent, counts, values.numel() - int(torch.count_nonzero(values)))


def widen(histogram: Histogram, exponent: int) -> Histogram:
    """Return the same counts over [−2^exponent, 2^exponent). Raises ValueError when that is narrower."""
    if exponent < histogram.exponent:
        raise ValueError("a histogram can't become narrower")
    if exponent == histogram.exponent:
        return histogram
    halvings = min(exponent - histogram.exponent, 12)
    places = torch.arange(-HALF, HALF, device=histogram.counts.device).bitwise_right_shift(halvings) + HALF
    counts = torch.zeros_like(histogram.counts).index_add_(0, places, histogram.counts)
    return Histogram(exponent, counts, histogram.zeros)


def merge(first: Histogram, second: Histogram) -> Histogram:
    """Merge the histograms of two sets of values."""
    exponent = max(first.exponent, second.exponent)
    first, second = widen(first, exponent), widen(second, exponent)
    return Histogram(exponent, first.counts + second.counts, first.zeros + second.zeros)
