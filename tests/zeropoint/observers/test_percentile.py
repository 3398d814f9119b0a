import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor

from zeropoint.observers import observer_for
from zeropoint.observers.histogram import BINS
from zeropoint.observers.observer import QuantizationSpec, Range
from zeropoint.observers.statistics import Collector
from zeropoint.primitives.qparams import QUINT8
from zeropoint.schema.recipe import PercentileObserver

TARGET = QuantizationSpec(QUINT8, "asymmetric")


def values(count: int, seed: int = 0) -> Tensor:
    return torch.randn(count, generator=torch.Generator().manual_seed(seed)) ** 3


def range_of(seen: Tensor, percentile: float) -> Range:
    collector = Collector(histogram=True)
    collector.observe(seen)
    return observer_for(PercentileObserver(percentile=percentile)).of_statistics(collector.statistics(), TARGET)


@given(st.integers(0, 1000), st.integers(1, 3000), st.sampled_from([51.0, 90.0, 99.0, 99.9, 99.99, 100.0]))
def test_an_activation_range_is_that_of_torch_quantile_within_a_bin(seed: int, count: int, percentile: float) -> None:
    seen = values(count, seed)
    width = 2.01 * 2.0 ** int(torch.frexp(seen.abs().max()).exponent) / BINS
    expected = torch.quantile(seen, torch.tensor([1 - percentile / 100, percentile / 100]))
    assert bool(((torch.stack(range_of(seen, percentile)) - expected).abs() <= width).all())


def test_an_activation_range_never_leaves_what_was_seen() -> None:
    assert [bound.item() for bound in range_of(torch.full((9,), 0.3), 99.0)] == [pytest.approx(0.3)] * 2


@pytest.mark.parametrize("percentile", [75.0, 99.0, 100.0])
def test_a_weight_has_the_exact_quantile_of_each_row(percentile: float) -> None:
    rows = values(600).reshape(6, 100)
    low, high = observer_for(PercentileObserver(percentile=percentile)).of_rows(rows, TARGET)
    torch.testing.assert_close(low, torch.quantile(rows, 1 - percentile / 100, dim=1), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(high, torch.quantile(rows, percentile / 100, dim=1), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("percentile", [50.0, 100.1, float("nan"), -1.0])
def test_percentiles_that_leave_no_range_are_refused(percentile: float) -> None:
    with pytest.raises(ValidationError):
        PercentileObserver(percentile=percentile)
