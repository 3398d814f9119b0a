"""The histogram against a reference that bins every value by itself, in exact arithmetic."""

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from zeropoint.observers.histogram import BINS, CHUNK, HALF, SMALLEST_EXPONENT, Histogram, count, merge, widen

SCALES = st.integers(-60, 60).map(lambda exponent: 2.0**exponent)


@st.composite
def batches(draw: st.DrawFn) -> Tensor:
    """Random values, constants, zeros and one-sided ones, of any shape, over many orders of magnitude."""
    shape = draw(st.lists(st.integers(1, 5), min_size=0, max_size=3))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    values = torch.randn(shape, generator=generator) * draw(SCALES)
    kind = draw(st.sampled_from(["any", "positive", "negative", "sparse", "constant", "zero"]))
    return {
        "any": values,
        "positive": values.abs(),
        "negative": -values.abs(),
        "sparse": torch.relu(values),
        "constant": torch.full_like(values, float(values.flatten()[0])),
        "zero": torch.zeros_like(values),
    }[kind]


def histogram_of(values: Tensor) -> Histogram:
    return count(values, float(values.abs().max()))


def counted_one_by_one(values: Tensor, exponent: int) -> list[int]:
    counts = [0] * BINS
    for value in values.flatten().tolist():
        counts[math.floor(Fraction(value) * HALF / Fraction(2) ** exponent) + HALF] += 1
    return counts


def same(first: Histogram, second: Histogram) -> bool:
    numbers = (first.exponent, first.zeros) == (second.exponent, second.zeros)
    return numbers and torch.equal(first.counts, second.counts)


@given(batches())
def test_every_value_is_in_the_bin_that_exact_arithmetic_gives(values: Tensor) -> None:
    histogram = histogram_of(values)
    assert histogram.counts.tolist() == counted_one_by_one(values, histogram.exponent)
    assert histogram.zeros == int((values == 0).sum())


@given(batches())
def test_the_range_is_the_next_power_of_two(values: Tensor) -> None:
    largest, exponent = float(values.abs().max()), histogram_of(values).exponent
    assert largest < 2.0**exponent
    assert exponent == SMALLEST_EXPONENT or largest >= 2.0 ** (exponent - 1)


@given(batches(), st.integers(0, 30))
def test_widening_gives_what_counting_over_the_wider_range_gives(values: Tensor, steps: int) -> None:
    histogram = histogram_of(values)
    wide = widen(histogram, histogram.exponent + steps)
    assert wide.counts.tolist() == counted_one_by_one(values, histogram.exponent + steps)


@given(st.lists(batches(), min_size=2, max_size=4))
def test_merging_in_any_order_gives_what_counting_everything_gives(parts: list[Tensor]) -> None:
    together = histogram_of(torch.cat([part.flatten() for part in parts]))
    forward, backward = histogram_of(parts[0]), histogram_of(parts[-1])
    for part in parts[1:]:
        forward = merge(forward, histogram_of(part))
    for part in parts[-2::-1]:
        backward = merge(histogram_of(part), backward)
    assert same(forward, together)
    assert same(backward, together)


def test_more_values_than_are_counted_at_once_all_count() -> None:
    values = torch.linspace(-1, 1, 2 * CHUNK + 3)
    assert int(histogram_of(values).counts.sum()) == len(values)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_float_dtypes_are_counted_like_float32(dtype: torch.dtype) -> None:
    values = torch.randn(100, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    assert same(histogram_of(values.to(dtype)), histogram_of(values.to(torch.float32)))


def test_a_histogram_does_not_become_narrower() -> None:
    with pytest.raises(ValueError, match="narrower"):
        widen(histogram_of(torch.ones(3)), 0)
