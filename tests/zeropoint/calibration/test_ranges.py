"""When statistics are thin, and when a layer's input can't have a range."""

import math

import pytest
import torch
from torch import nn

from zeropoint.calibration.profile import Profile
from zeropoint.calibration.ranges import FEW_SAMPLES, static_inputs, thin_spots
from zeropoint.errors import InvalidSamples
from zeropoint.layers.selection import Choice
from zeropoint.model.layer import Layer
from zeropoint.observers.statistics import Statistics
from zeropoint.schema.recipe import ActivationSettings, WeightSettings

STILL = Statistics(100, -1.0, 1.0, (-1.0, 1.0))
MOVING = Statistics(100, -1.0, 1.0, (-0.5, 0.5))


def profile(layers: dict[str, Statistics], samples: int = FEW_SAMPLES) -> Profile:
    return Profile(layers, samples, batches=4, batch_size=8)


def test_enough_samples_and_steady_ranges_are_no_reason_to_warn() -> None:
    assert thin_spots(profile({"a": STILL, "b": Statistics(100, -1.0, 1.0)}), ["a", "b"]) == []


def test_few_samples_are_told_with_their_number() -> None:
    (warning,) = thin_spots(profile({"a": STILL}, FEW_SAMPLES - 1), ["a"])
    assert warning.startswith(f"few_samples: {FEW_SAMPLES - 1};")


def test_layers_whose_range_still_moved_are_named_the_worst_first() -> None:
    worst = Statistics(100, -1.0, 1.0, (-0.1, 0.1))
    (warning,) = thin_spots(profile({"a": STILL, "b": MOVING, "c": worst}), ["a", "b", "c"])
    assert warning.startswith("still_moving:")
    assert warning.endswith("2 ('c', 'b').")


def test_five_names_are_enough() -> None:
    names = [f"layer{number}" for number in range(9)]
    (warning,) = thin_spots(profile(dict.fromkeys(names, MOVING)), names)
    assert warning.count("'layer") == 5
    assert " 9 (" in warning


def test_layers_that_the_recipe_left_out_are_not_warned_about() -> None:
    assert thin_spots(profile({"a": STILL, "b": MOVING}), ["a"]) == []


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_an_input_that_was_not_finite_is_refused_by_its_layers_name(bad: float) -> None:
    linear = nn.Linear(2, 2)
    layer = Layer("head", "Linear", 24, "Linear", linear, "head.weight")
    choices = [Choice(layer, WeightSettings(), ActivationSettings())]
    with pytest.raises(InvalidSamples, match="'head'") as refusal:
        static_inputs(choices, profile({"head": Statistics(4, 0.0, bad)}))
    assert refusal.value.code == "non_finite_activations"


def test_other_layers_may_meet_what_is_not_finite() -> None:
    layer = Layer("head", "Linear", 24, "Linear", nn.Linear(2, 2), "head.weight")
    found = profile({"head": STILL, "mask": Statistics(4, -math.inf, 0.0)})
    activations = static_inputs([Choice(layer, WeightSettings(), ActivationSettings())], found)
    assert torch.isfinite(activations["head"].qparams.scale)
