"""Statistics of single channels: over any axis, over any batches, kept and restored."""

import pytest
import torch

from zeropoint.observers.channels import ChannelStatistics, channel_statistics, merge_channels
from zeropoint.observers.statistics import Collector


@pytest.mark.parametrize(("shape", "axis"), [((6, 5), -1), ((2, 3, 5), -1), ((4, 5, 7), -2), ((2, 5, 3, 4), -3)])
def test_they_are_those_of_each_channel(shape: tuple[int, ...], axis: int) -> None:
    values = torch.randn(shape)
    found = channel_statistics(values, axis)
    rows = values.movedim(axis, 0).flatten(1)
    assert found.positions == rows.shape[1]
    assert torch.equal(found.minimum, rows.amin(1))
    assert torch.equal(found.maximum, rows.amax(1))
    torch.testing.assert_close(found.magnitude, rows.abs().mean(1))
    assert torch.equal(found.abs_max, rows.abs().amax(1))


def test_batches_add_up() -> None:
    values = torch.randn(9, 4)
    whole, parts = channel_statistics(values, -1), [channel_statistics(values[i : i + 3], -1) for i in (0, 3, 6)]
    found = merge_channels(merge_channels(*parts[:2]), parts[2])
    assert (found.positions, torch.equal(found.minimum, whole.minimum)) == (9, True)
    assert torch.equal(found.maximum, whole.maximum)
    torch.testing.assert_close(found.magnitude, whole.magnitude)


def test_a_collector_gives_the_same_range_with_and_without_them() -> None:
    values = torch.randn(3, 8, 6)
    plain, watching = Collector(histogram=False), Collector(histogram=False, channel_axis=-1)
    for batch in values:
        plain.observe(batch)
        watching.observe(batch)
    one, other = plain.statistics(), watching.statistics()
    assert (one.minimum, one.maximum, one.count) == (other.minimum, other.maximum, other.count)
    assert one.channels is None
    assert other.channels is not None


def test_what_a_collector_saw_of_them_is_gone_on_with() -> None:
    values, collector = torch.randn(2, 8, 6), Collector(histogram=False, channel_axis=-1)
    collector.observe(values[0])
    again = Collector.restored(*collector.state(), "cpu")
    for one in (collector, again):
        one.observe(values[1])
    found, expected = again.statistics().channels, collector.statistics().channels
    assert found is not None
    assert expected is not None
    assert torch.equal(found.stacked, expected.stacked)
    assert found.positions == expected.positions


@pytest.mark.parametrize(("positions", "shape"), [(0, (3, 4)), (5, (2, 4)), (5, (3,))])
def test_what_is_none_is_not_restored(positions: int, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="channels"):
        ChannelStatistics.restored(positions, torch.zeros(shape))
