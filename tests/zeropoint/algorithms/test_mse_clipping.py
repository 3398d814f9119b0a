"""MSE clipping: a lonely peak is cut off, and what has no histogram of its own is left alone."""

import pytest
import torch
from torch import nn

from tests.zeropoint.algorithms.conftest import Place, Prepare
from zeropoint.algorithms.mse_clipping import clip
from zeropoint.algorithms.smoothing import smooth
from zeropoint.observers.mse import without_outliers
from zeropoint.observers.statistics import Collector
from zeropoint.schema.algorithms import MseClipping, Smoothing


def peaked(prepare: Prepare) -> Place:
    torch.manual_seed(0)
    samples = torch.randn(48, 2, 96, 96)
    samples[0, 0, 0, 0] = 14.0
    return prepare(nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3)), samples)


def test_a_lonely_peak_no_longer_makes_the_grid_coarse(prepare: Prepare) -> None:
    place = peaked(prepare)
    changed = clip(MseClipping(), place.context, place.layers)
    before, after = place.layers["0"].activation, changed["0"].activation
    assert before is not None
    assert after is not None
    assert (before.maximum, after.maximum < 8) == (14.0, True)
    assert place.db({**place.layers, "0": changed["0"]}) > place.db(place.layers) + 1


def test_other_kinds_and_smoothed_layers_are_left_alone(prepare: Prepare) -> None:
    place = peaked(prepare)
    assert clip(MseClipping(layer_types=("Linear",)), place.context, place.layers) == {}
    smoothed = smooth(Smoothing(layer_types=("Conv2d",)), place.context, place.layers)
    assert clip(MseClipping(), place.context, smoothed) == {}


@pytest.mark.parametrize("times", [3, 20, 100])
def test_outliers_that_do_not_count_widen_no_range(prepare: Prepare, times: float) -> None:
    """A sample that is `times` as large, among 96: with it the range is that of the others."""
    torch.manual_seed(0)
    samples = torch.randn(96, 2, 12, 12)
    network = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3))
    ranges = []
    for size in (1.0, times):
        samples[5] *= size
        place = prepare(network, samples)
        changed = clip(MseClipping(ignore_outliers=True), place.context, place.layers)["0"].activation
        assert changed is not None
        ranges.append(changed.maximum - changed.minimum)
    assert ranges[1] <= 1.3 * ranges[0]


@pytest.mark.parametrize("zeros", [0.5, 0.99])
def test_usual_values_are_no_outliers(zeros: float) -> None:
    """Normal, one-sided and sparse values keep their range, but for what a normal distribution hardly ever has."""
    torch.manual_seed(0)
    values = torch.randn(100_000)
    sparse = torch.where(torch.rand(100_000) < zeros, 0.0, values)
    for tensor in (values, values.relu(), values.abs(), sparse, torch.full((100,), 3.0), torch.zeros(100)):
        collector = Collector(histogram=True)
        collector.observe(tensor)
        kept = without_outliers(collector.statistics())
        assert kept.maximum >= 0.95 * float(tensor.max())
        assert kept.minimum <= max(0.95 * float(tensor.min()), float(tensor.min()))
