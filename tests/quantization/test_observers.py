import pytest
import torch

from quantization.observers import observer_for
from quantization.observers.minmax import MinMax
from quantization.recipe import MinMaxObserver


def test_min_max_over_batches_equals_min_max_of_everything() -> None:
    values = torch.randn(50, 3, 4, generator=torch.Generator().manual_seed(0))
    observer = observer_for(MinMaxObserver())
    for batch in torch.tensor_split(values, 8):
        observer.observe(batch)
    low, high = observer.range()
    assert (low, high) == (values.min(), values.max())


def test_min_max_per_channel_keeps_one_range_per_index_of_the_axis() -> None:
    values = torch.randn(5, 3, 4, generator=torch.Generator().manual_seed(0))
    observer = MinMax(axis=1)
    observer.observe(values)
    low, high = observer.range()
    assert torch.equal(low, values.amin((0, 2)))
    assert torch.equal(high, values.amax((0, 2)))


def test_min_max_keeps_nan_once_seen() -> None:
    observer = MinMax()
    observer.observe(torch.tensor([1.0, float("nan")]))
    observer.observe(torch.tensor([2.0]))
    assert bool(torch.isnan(observer.range()[0]))


def test_a_range_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing was observed"):
        MinMax().range()
