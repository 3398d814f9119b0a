"""MSE: choose the range with the smallest error Σ (x − x̂)², the sum of clipping and rounding errors.

Source: Nagel et al., "A White Paper on Neural Network Quantization" (2021), section 3.1. Values [C, n] are quantized as
they are. In a histogram, values are taken to be spread evenly over their bin [a, b]; with steps of s from l to h
the error of the bin is count · (G(b) − G(a)) / (b − a), where

    G(x) = s³ · F(c / s) + (x − c)³ / 3,  c = clamp(x, l, h)        F(y) = n / 12 + (y − n)³ / 3,  n = round(y)

is the antiderivative of (x − x̂)²: from l to h the error is the distance to the nearest step, beyond them the
distance to the end. Exact zeros are not counted, since they have no rounding error.

The range is searched as shares 2^−k of the extremes, with one k for symmetric qparams and one for each side of
asymmetric ones: k from 0 to 5 in steps of 1, then around the best k in steps from 1/2 down to 1/32. The first candidate
is min-max.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import product
from typing import ClassVar

import torch
from torch import Tensor

from zeropoint.observers.histogram import HALF, Histogram
from zeropoint.observers.observer import QuantizationSpec, Range
from zeropoint.observers.percentile import quantile
from zeropoint.observers.statistics import Statistics
from zeropoint.primitives.qparams import dequantize, quantize

CENTRAL = 0.98
"""The share of the values, without exact zeros, that shows how large values usually are."""
FAR = 2.0
"""Values further from zero than so many times the range of the central ones are outliers."""
COARSE_STEP, COARSE_STEPS = 1.0, 6
FINE_STEPS = (0.5, 0.25, 0.125, 0.0625, 0.03125)


@dataclass(frozen=True)
class Mse:
    """Chooses the range with the smallest error; it has no settings."""

    needs_histogram: ClassVar[bool] = True

    def of_statistics(self, statistics: Statistics, spec: QuantizationSpec) -> Range:
        assert statistics.histogram is not None
        error = histogram_error(statistics.histogram, spec)
        extremes = torch.tensor([[statistics.minimum], [statistics.maximum]])
        low, high = search(error, extremes[0], extremes[1], spec)
        return low[0], high[0]

    def of_rows(self, rows: Tensor, spec: QuantizationSpec) -> Range:
        values = rows.to(torch.float32)

        def error(low: Tensor, high: Tensor) -> Tensor:
            qparams = spec.choose_qparams(low, high, 0)
            return (values - dequantize(quantize(values, qparams), qparams)).square().sum(1)

        return search(error, *torch.aminmax(values, dim=1), spec)


def without_outliers(statistics: Statistics) -> Statistics:
    """Return the statistics without values that lie beyond FAR times the range of the CENTRAL share of them.

    Of a normal distribution that is everything within 4.7 standard deviations, of which some hundred thousand values
    have none outside. A sample of 20 times the usual size lies outside almost whole.
    """
    histogram = statistics.histogram
    if histogram is None:
        return statistics
    counts = histogram.counts.clone()
    counts[HALF] -= histogram.zeros
    nonzero = Histogram(histogram.exponent, counts, 0)
    if not bool(counts.any()):
        return statistics
    tail = (1 - CENTRAL) / 2
    cap = FAR * max(abs(float(quantile(nonzero, share))) for share in (tail, 1 - tail))
    edges = histogram.edges
    inside = (edges[1:] > -cap) & (edges[:-1] < cap)
    low, high = max(statistics.minimum, -cap), min(statistics.maximum, cap)
    kept = Histogram(histogram.exponent, histogram.counts * inside, histogram.zeros)
    return replace(statistics, minimum=low, maximum=high, histogram=kept)


def search(
    error: Callable[[Tensor, Tensor], Tensor], minimum: Tensor, maximum: Tensor, spec: QuantizationSpec
) -> Range:
    """Return the best range for each of [C] rows, given the `error` [C] of a range."""
    shares = torch.zeros(2, len(minimum), device=minimum.device)
    least = error(minimum, maximum)
    for step, offsets in _stages(one_side=spec.scheme == "symmetric" or not bool((minimum < 0).any())):
        centre = shares
        for offset in offsets:
            trial = (centre + step * torch.tensor(offset, device=centre.device)[:, None]).clamp(max=0)
            candidate = error(minimum * trial[0].exp2(), maximum * trial[1].exp2())
            better = candidate < least
            least, shares = torch.where(better, candidate, least), torch.where(better, trial, shares)
    return minimum * shares[0].exp2(), maximum * shares[1].exp2()


def _stages(*, one_side: bool) -> list[tuple[float, list[tuple[int, int]]]]:
    """Return the steps, and the offsets (minimum, maximum) to try with each."""

    def offsets(steps: range) -> list[tuple[int, int]]:
        pairs = zip(steps, steps, strict=True) if one_side else product(steps, steps)
        return [pair for pair in pairs if pair != (0, 0)]

    return [
        (COARSE_STEP, offsets(range(0, -COARSE_STEPS, -1))),
        *((step, offsets(range(-1, 2))) for step in FINE_STEPS),
    ]


def histogram_error(histogram: Histogram, spec: QuantizationSpec) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the function from a range ([1], [1]) to its error [1] on the values of a histogram."""
    counts = histogram.counts.to(torch.float64)
    counts[HALF] -= histogram.zeros
    used = counts.nonzero().flatten()
    first, last = (0, 0) if not len(used) else (int(used[0]), int(used[-1]) + 1)
    edges = histogram.edges[first : last + 1]
    density = counts[first:last] / (edges[1] - edges[0] if last else 1)

    def error(low: Tensor, high: Tensor) -> Tensor:
        qparams = spec.choose_qparams(low[0], high[0])
        step, zero = float(qparams.scale), int(qparams.zero_point)
        bottom, top = (qparams.quant_type.quant_min - zero) * step, (qparams.quant_type.quant_max - zero) * step
        inside = edges.clamp(bottom, top)
        nearest = torch.round(inside / step)
        rounding = step**3 * (nearest / 12 + (inside / step - nearest) ** 3 / 3)
        clipping = (edges - inside) ** 3 / 3
        return ((rounding + clipping).diff() * density).sum().reshape(1)

    return error
