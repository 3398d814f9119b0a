"""MSE clipping: a lonely peak is cut off, and what has no histogram of its own is left alone."""

import torch
from torch import nn

from tests.zeropoint.algorithms.conftest import Place, Prepare
from zeropoint.algorithms.mse_clipping import clip
from zeropoint.algorithms.smoothing import smooth
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
