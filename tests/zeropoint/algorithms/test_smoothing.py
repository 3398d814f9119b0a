"""Smoothing: the formula by hand, what it gains, and what keeps it from harm."""

from dataclasses import replace

import torch
from torch import Tensor, nn

from tests.zeropoint.algorithms.conftest import Prepare
from zeropoint.algorithms.smoothing import STEPS, factors, smooth
from zeropoint.schema.algorithms import Smoothing

Outlying = tuple[nn.Module, Tensor]


def test_the_factors_are_those_of_the_formula() -> None:
    reach, weights = torch.tensor([4.0, 1.0]), torch.tensor([0.5, 2.0])
    torch.testing.assert_close(factors(reach, weights, 0.5), torch.tensor([8.0**0.5, 0.5**0.5]))
    torch.testing.assert_close(factors(reach, weights, 1.0), reach)
    torch.testing.assert_close(factors(reach, weights, 0.0), 1 / weights)


def test_a_channel_that_calibration_never_saw_is_no_wider_than_a_step() -> None:
    found = factors(torch.tensor([512.0, 0.0]), torch.ones(2), 1.0)
    assert found.tolist() == [512.0, 512.0 / STEPS]


def test_an_input_of_nothing_but_zeros_is_left_alone() -> None:
    assert factors(torch.zeros(3), torch.ones(3), 0.8).tolist() == [1.0, 1.0, 1.0]


def test_wide_channels_no_longer_drown_the_others(prepare: Prepare, outlying: Outlying) -> None:
    place = prepare(*outlying)
    smoothed = smooth(Smoothing(), place.context, place.layers)
    assert place.db({**place.layers, "0": smoothed["0"]}) > place.db(place.layers) + 10


def test_the_weight_takes_up_what_the_input_gives_off(prepare: Prepare, outlying: Outlying) -> None:
    place = prepare(*outlying)
    layer = smooth(Smoothing(alpha=0.5), place.context, place.layers)["0"]
    assert layer.pre_quant_scale is not None
    torch.testing.assert_close(layer.effective_weight, layer.layer.weight, atol=0.005, rtol=0.05)
    reach = place.context.statistics["0"].channels
    assert reach is not None
    assert layer.activation is not None
    assert layer.activation.maximum == float((reach.maximum * layer.pre_quant_scale).max())


def test_layers_that_read_the_same_values_share_their_factors(prepare: Prepare) -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right, self.other = nn.Linear(16, 8), nn.Linear(16, 8), nn.Linear(16, 8)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.left(x) + self.right(x) + self.other(x * 2)
            return y

    torch.manual_seed(0)
    place = prepare(Both(), torch.randn(64, 16) * torch.linspace(0.1, 9, 16))
    found = smooth(Smoothing(), place.context, place.layers)
    scales = [found[name].pre_quant_scale for name in ("left", "right", "other")]
    assert scales[0] is not None
    assert torch.equal(scales[0], scales[1])  # type: ignore[arg-type]
    assert not torch.equal(scales[0], scales[2])  # type: ignore[arg-type]


def test_weight_only_layers_and_other_kinds_are_not_smoothed(prepare: Prepare, outlying: Outlying) -> None:
    place = prepare(*outlying, activations=None)
    assert smooth(Smoothing(), place.context, place.layers) == {}
    place = prepare(*outlying)
    assert smooth(Smoothing(layer_types=("Conv2d",)), place.context, place.layers) == {}


def test_a_grouped_convolution_is_smoothed_channel_by_channel(prepare: Prepare) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(8, 8, 3, groups=4), nn.ReLU(), nn.Conv2d(8, 4, 3))
    place = prepare(module, torch.randn(48, 8, 7, 7) * torch.linspace(0.05, 20, 8)[:, None, None])
    found = smooth(Smoothing(alpha=0.6, layer_types=("Conv2d",)), place.context, place.layers)
    torch.testing.assert_close(found["0"].effective_weight, found["0"].layer.weight, atol=0.01, rtol=0.1)
    assert place.db({**place.layers, "0": found["0"]}) > place.db(place.layers)


def test_without_a_place_for_a_product_only_a_normalization_carries(prepare: Prepare) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.LayerNorm(16), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 8))
    place = prepare(module, torch.randn(64, 16))
    context = replace(place.context, products=False, norm_mappings={"1": "0"})
    found = smooth(Smoothing(), context, place.layers)
    assert {name: layer.scaled_by for name, layer in found.items()} == {"1": "0"}
    assert (
        smooth(Smoothing(), replace(context, norm_mappings={"1": "0", "gone": "0"}), place.layers) == {}
    )  # it reads it too


def test_what_is_tied_stays_tied(prepare: Prepare) -> None:
    module = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))
    module[2].weight = module[0].weight
    place = prepare(module, torch.randn(64, 8))
    assert set(smooth(Smoothing(), place.context, place.layers)) == {"4"}
