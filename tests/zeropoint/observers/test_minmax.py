import torch

from zeropoint.observers import observer_for
from zeropoint.observers.observer import QuantizationSpec
from zeropoint.observers.statistics import Statistics
from zeropoint.primitives.qparams import QUINT8
from zeropoint.schema.recipe import MinMaxObserver

TARGET = QuantizationSpec(QUINT8, "asymmetric")


def test_the_range_of_an_activation_is_what_was_seen() -> None:
    low, high = observer_for(MinMaxObserver()).of_statistics(Statistics(9, -1.5, 2.5), TARGET)
    assert (low.item(), high.item()) == (-1.5, 2.5)


def test_each_row_of_a_weight_has_its_own_range() -> None:
    rows = torch.randn(5, 12, generator=torch.Generator().manual_seed(0))
    low, high = observer_for(MinMaxObserver()).of_rows(rows, TARGET)
    assert torch.equal(low, rows.amin(1))
    assert torch.equal(high, rows.amax(1))
