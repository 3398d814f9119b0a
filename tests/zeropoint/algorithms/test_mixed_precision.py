"""Mixed precision: who stays in float, in which order, and where it ends."""

from dataclasses import replace

import torch
from torch import nn

from tests.zeropoint.algorithms.conftest import Prepare
from zeropoint.algorithms.mixed_precision import keep_in_float, worth_leaving
from zeropoint.schema.algorithms import MixedPrecision
from zeropoint.simulation.sensitivity import Sensitivity, by_noise_per_mac

FOUND = Sensitivity(
    signal=1e4, noise={"loud": 70.0, "busy": 20.0, "quiet": 10.0}, macs={"loud": 10, "busy": 60, "quiet": 30}
)


def test_the_order_is_noise_for_each_multiply_accumulate() -> None:
    assert by_noise_per_mac(FOUND) == ["loud", "busy", "quiet"]
    assert by_noise_per_mac(Sensitivity(noise={"a": 1.0, "idle": 5.0}, macs={"a": 1, "idle": 0})) == ["a"]


def test_a_layer_must_make_more_noise_than_work() -> None:
    assert worth_leaving(FOUND, MixedPrecision()) == ["loud"]
    assert worth_leaving(FOUND, MixedPrecision(min_ratio=0, max_share=1)) == ["loud", "busy", "quiet"]
    assert worth_leaving(FOUND, MixedPrecision(min_ratio=10)) == []


def test_the_work_in_float_is_bounded() -> None:
    assert worth_leaving(FOUND, MixedPrecision(min_ratio=0, max_share=0.45)) == ["loud", "quiet"]


def test_the_weights_in_float_are_bounded_too() -> None:
    found = replace(FOUND, parameters={"loud": 70, "busy": 20, "quiet": 10})
    assert worth_leaving(found, MixedPrecision(min_ratio=0, max_share=0.65)) == ["busy"]


def test_it_ends_where_the_model_is_good_enough() -> None:
    assert worth_leaving(FOUND, MixedPrecision(min_ratio=0, max_share=1, until_db=20)) == []
    assert worth_leaving(FOUND, MixedPrecision(min_ratio=0, max_share=1, until_db=25)) == ["loud"]


def test_the_layer_that_spoils_everything_stays_in_float(prepare: Prepare) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(16, 4), nn.Linear(4, 64), nn.ReLU(), nn.Linear(64, 64))
    with torch.no_grad():
        module.get_parameter("0.weight")[:, 0].mul_(300)
    samples = torch.randn(64, 16)
    samples[:, 0] /= 300
    place = prepare(module, samples)
    left = keep_in_float(MixedPrecision(), place.context, place.layers)
    assert list(left.items()) == [("0", None)]
