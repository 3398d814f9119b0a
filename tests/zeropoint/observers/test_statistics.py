import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from zeropoint.observers.statistics import LONGEST_HISTORY, Collector, Statistics


def collected(*batches: torch.Tensor, histogram: bool = False) -> Statistics:
    collector = Collector(histogram=histogram)
    for batch in batches:
        collector.observe(batch)
    return collector.statistics()


def test_batches_of_other_shapes_give_the_statistics_of_everything() -> None:
    values = torch.randn(60, generator=torch.Generator().manual_seed(0))
    whole = collected(values, histogram=True)
    parts = collected(values[:10], values[10:40].reshape(5, 3, 2), values[40:].reshape(1, 20), histogram=True)
    assert (parts.count, parts.minimum, parts.maximum) == (60, float(values.min()), float(values.max()))
    assert whole.histogram is not None
    assert parts.histogram is not None
    assert torch.equal(whole.histogram.counts, parts.histogram.counts)


def test_a_histogram_is_kept_only_on_request() -> None:
    assert collected(torch.ones(3)).histogram is None


@pytest.mark.parametrize("histogram", [False, True])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_not_finite_stays_visible(bad: float, histogram: bool) -> None:
    assert not collected(torch.tensor([1.0, bad]), torch.tensor([2.0]), histogram=histogram).finite


def test_empty_tensors_say_nothing() -> None:
    assert collected(torch.empty(0, 3), torch.ones(2), histogram=True).count == 2


def test_statistics_of_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="nothing was observed"):
        collected()


@given(st.integers(4, 5 * LONGEST_HISTORY))
def test_the_early_range_ends_within_the_third_quarter_however_many_batches(batches: int) -> None:
    statistics = collected(*(torch.tensor([float(number)]) for number in range(1, batches + 1)))
    assert statistics.early is not None
    last = statistics.early[1]
    assert 0.75 * batches - max(1, 2 * batches / LONGEST_HISTORY) < last <= 0.75 * batches


def test_late_growth_is_the_share_of_the_range_that_came_last() -> None:
    values = [torch.tensor([-1.0, 1.0])] * 3
    assert collected(*values, torch.tensor([3.0])).late_growth == 0.5
    assert collected(*values, torch.tensor([0.0])).late_growth == 0.0
    assert collected(*[torch.zeros(2)] * 4).late_growth == 0.0
    assert collected(*[torch.ones(2)] * 3).late_growth is None
