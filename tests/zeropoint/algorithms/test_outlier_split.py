"""Outlier split: which channels leave, what the rest gains, and when nothing is worth it."""

from dataclasses import replace

import torch
from torch import Tensor, nn

from tests.zeropoint.algorithms.conftest import Prepare
from zeropoint.algorithms.outlier_split import split_outliers, widest_channels
from zeropoint.algorithms.smoothing import smooth
from zeropoint.schema.algorithms import OutlierSplit, Smoothing

Outlying = tuple[nn.Module, Tensor]


def test_the_widest_channels_leave_and_the_range_is_that_of_the_others(prepare: Prepare, outlying: Outlying) -> None:
    place = prepare(*outlying)
    layer = split_outliers(OutlierSplit(channels=3), place.context, place.layers)["0"]
    assert layer.outliers is not None
    assert layer.outliers.channels.tolist() == [3, 17, 30]
    assert torch.equal(layer.outliers.weight, layer.layer.weight[:, [3, 17, 30]])
    assert layer.weight[:, [3, 17, 30]].count_nonzero() == 0
    assert layer.activation is not None
    assert layer.activation.maximum < 10
    assert place.db({**place.layers, "0": layer}) > place.db(place.layers) + 20


def test_the_share_of_the_range_that_is_left_is_told() -> None:
    channels, left = widest_channels(torch.tensor([1.0, 8.0, 2.0, 4.0]), 2)
    assert (channels.tolist(), left) == ([1, 3], 0.25)
    assert widest_channels(torch.zeros(4), 2)[1] == 1.0


def test_a_layer_whose_channels_are_alike_is_left_alone(prepare: Prepare) -> None:
    place = prepare(nn.Sequential(nn.Linear(32, 8), nn.ReLU()), torch.rand(64, 32))
    assert split_outliers(OutlierSplit(channels=2), place.context, place.layers) == {}


def test_a_layer_with_few_channels_is_left_alone(prepare: Prepare, outlying: Outlying) -> None:
    place = prepare(*outlying)
    assert split_outliers(OutlierSplit(channels=5), place.context, place.layers) == {}


def test_channels_are_chosen_as_the_grid_meets_them(prepare: Prepare, outlying: Outlying) -> None:
    place = prepare(*outlying)
    smoothed = {**place.layers, **smooth(Smoothing(alpha=1.0), place.context, place.layers)}
    assert "0" not in split_outliers(OutlierSplit(channels=3), place.context, smoothed)  # all are equally wide now


def test_nothing_is_split_where_there_is_no_place_for_it(prepare: Prepare, outlying: Outlying) -> None:
    place = prepare(*outlying)
    context = replace(place.context, products=False)
    assert split_outliers(OutlierSplit(channels=3), context, place.layers) == {}
