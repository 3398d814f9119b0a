from collections.abc import Callable
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from zeropoint.observers.mse import Mse, histogram_error
from zeropoint.observers.observer import QuantizationSpec
from zeropoint.observers.statistics import Collector, Statistics
from zeropoint.primitives.qparams import QINT8, QUINT8, QuantType, dequantize, quantize

COARSE = QuantType(torch.int8, -7, 7)
TARGETS = [
    QuantizationSpec(QUINT8, "asymmetric"),
    QuantizationSpec(QINT8, "symmetric"),
    QuantizationSpec(COARSE, "symmetric"),
]
NAMES = ["uint8", "int8", "int4"]


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def gaussian(seed: int) -> Tensor:
    return torch.randn(20_000, generator=generator(seed))


def outliers(seed: int) -> Tensor:
    return torch.cat([gaussian(seed), torch.tensor([40.0, -9.0])])


def rectified(seed: int) -> Tensor:
    return torch.relu(gaussian(seed)) ** 3


def shifted(seed: int) -> Tensor:
    return gaussian(seed) * 0.01 + 3


def padded(seed: int) -> Tensor:
    return torch.cat([outliers(seed), torch.zeros(100_000)])


SHAPES = [gaussian, outliers, rectified, shifted, padded]


def statistics(values: Tensor) -> Statistics:
    collector = Collector(histogram=True)
    collector.observe(values)
    return collector.statistics()


def true_error(values: Tensor, low: Tensor, high: Tensor, spec: QuantizationSpec) -> float:
    grid = spec.choose_qparams(low, high)
    return float((values - dequantize(quantize(values, grid), grid)).double().square().sum())


def shrunk(extreme: float, count: int) -> Tensor:
    return torch.linspace(1 / count, 1, count) * extreme


def candidates(seen: Statistics, spec: QuantizationSpec) -> list[tuple[Tensor, Tensor]]:
    """Every range that a fine search would try."""
    if spec.scheme == "symmetric":
        return [(-reach, reach) for reach in shrunk(max(-seen.minimum, seen.maximum), 200)]
    lows = shrunk(seen.minimum, 60) if seen.minimum < 0 else torch.zeros(1)
    return list(product(lows, shrunk(seen.maximum, 60)))


@pytest.mark.parametrize("spec", TARGETS, ids=NAMES)
@pytest.mark.parametrize("shape", SHAPES)
def test_the_error_from_the_histogram_is_the_error_of_the_values(
    shape: Callable[[int], Tensor], spec: QuantizationSpec
) -> None:
    values = shape(0)
    seen = statistics(values)
    assert seen.histogram is not None
    error = histogram_error(seen.histogram, spec)
    for share in (1.0, 0.5, 0.25):
        low, high = torch.tensor(seen.minimum * share), torch.tensor(seen.maximum * share)
        assert float(error(low[None], high[None])) == pytest.approx(true_error(values, low, high, spec), rel=0.1)


@settings(max_examples=50)
@given(st.integers(0, 10_000), st.sampled_from(SHAPES), st.sampled_from(TARGETS), st.integers(-30, 30))
def test_it_is_never_worse_than_min_max_on_the_same_histogram(
    seed: int, shape: Callable[[int], Tensor], spec: QuantizationSpec, exponent: int
) -> None:
    seen = statistics(shape(seed)[:500] * 2.0**exponent)
    assert seen.histogram is not None
    error = histogram_error(seen.histogram, spec)
    low, high = Mse().of_statistics(seen, spec)
    extremes = torch.tensor([seen.minimum]), torch.tensor([seen.maximum])
    assert float(error(low[None], high[None])) <= float(error(*extremes))


@pytest.mark.parametrize("spec", TARGETS, ids=NAMES)
@pytest.mark.parametrize("shape", [gaussian, outliers, rectified, padded])
def test_it_finds_the_optimum_of_a_brute_force_search(shape: Callable[[int], Tensor], spec: QuantizationSpec) -> None:
    seen = statistics(shape(0))
    assert seen.histogram is not None
    error = histogram_error(seen.histogram, spec)
    best = min(float(error(low[None], high[None])) for low, high in candidates(seen, spec))
    low, high = Mse().of_statistics(seen, spec)
    assert float(error(low[None], high[None])) <= 1.03 * best


def test_padding_with_zeros_does_not_change_the_range() -> None:
    spec = TARGETS[0]
    assert Mse().of_statistics(statistics(padded(0)), spec) == Mse().of_statistics(statistics(outliers(0)), spec)


@pytest.mark.parametrize("value", [0.0, 1.5, -2.0])
def test_a_constant_keeps_its_range(value: float) -> None:
    low, high = Mse().of_statistics(statistics(torch.full((10,), value)), TARGETS[0])
    grid = TARGETS[0].choose_qparams(low, high)
    assert float(dequantize(quantize(torch.tensor(value), grid), grid)) == pytest.approx(value, rel=0.05)


@pytest.mark.parametrize("spec", TARGETS, ids=NAMES)
def test_each_row_of_a_weight_gets_the_best_range_of_its_own(spec: QuantizationSpec) -> None:
    rows = torch.stack([outliers(0)[-2000:], gaussian(1)[:2000], torch.zeros(2000)])
    low, high = Mse().of_rows(rows, spec)
    for row, minimum, maximum in zip(rows, low, high, strict=True):
        candidates = shrunk(float(row.abs().max()), 200)
        best = min(true_error(row, *_ends(row, share, spec), spec) for share in candidates)
        assert true_error(row, minimum, maximum, spec) <= 1.03 * best


def _ends(row: Tensor, reach: Tensor, spec: QuantizationSpec) -> tuple[Tensor, Tensor]:
    return torch.maximum(row.min(), -reach), torch.minimum(row.max(), reach)
