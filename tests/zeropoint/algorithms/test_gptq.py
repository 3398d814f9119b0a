"""GPTQ: less output error than rounding to nearest, on the same grids, whatever the granularity and the layer."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from tests.zeropoint.algorithms.conftest import Place, Prepare
from zeropoint.algorithms import gptq
from zeropoint.algorithms.gptq import damped, inverse_factor, round_by_gptq
from zeropoint.primitives.qparams import QINT8
from zeropoint.schema.algorithms import Gptq

RECIPES: dict[str, dict[str, object]] = {
    "static": {},
    "asymmetric": {"weights": {"scheme": "asymmetric"}},
    "per_tensor": {"weights": {"granularity": "per_tensor"}},
    "groups": {"weights": {"dtype": "int4", "group_size": 8}, "activations": None},
}


def correlated(prepare: Prepare, **recipe: object) -> Place:
    torch.manual_seed(0)
    samples = torch.randn(160, 6) @ torch.randn(6, 32) + 0.1 * torch.randn(160, 32)
    return prepare(nn.Sequential(nn.Linear(32, 24), nn.Tanh(), nn.Linear(24, 8)), samples, **recipe)


def output_error(place: Place, name: str, weight: Tensor) -> float:
    layer = place.layers[name].layer
    inputs = torch.cat([batch[0] for batch in place.context.calibration])
    return float((inputs @ (weight - layer.weight).T).square().sum())


@pytest.mark.parametrize("name", RECIPES)
def test_the_error_at_the_output_is_smaller(prepare: Prepare, name: str) -> None:
    place = correlated(prepare, **RECIPES[name])
    changed = round_by_gptq(Gptq(), place.context, place.layers)
    assert set(changed) == {"0", "2"}
    nearest, found = place.layers["0"], changed["0"]
    assert output_error(place, "0", found.effective_weight) < 0.7 * output_error(place, "0", nearest.effective_weight)
    assert found.rounding == "gptq"
    assert torch.equal(found.qparams.scale, nearest.qparams.scale)  # type: ignore[union-attr]
    grid = found.qparams.quant_type  # type: ignore[union-attr]
    assert found.weight.dtype == grid.dtype
    assert grid.quant_min <= int(found.weight.min()) <= int(found.weight.max()) <= grid.quant_max


def test_inputs_that_have_nothing_in_common_are_rounded_to_nearest(prepare: Prepare) -> None:
    place = correlated(prepare)
    layer = place.layers["0"]
    numbers = gptq._rounded([layer], torch.eye(32), 0.01)["0"].weight
    assert torch.equal(numbers, layer.weight)


def test_layers_that_share_their_input_come_out_as_if_alone(prepare: Prepare) -> None:
    place = correlated(prepare)
    moments = torch.randn(64, 32)
    moments = moments.T @ moments
    layer = place.layers["0"]
    other = replace(layer, layer=replace(layer.layer, name="other"))
    together, alone = gptq._rounded([layer, other], moments, 0.01), gptq._rounded([layer], moments, 0.01)
    assert torch.equal(together["0"].weight, alone["0"].weight)
    assert all(one.weight.untyped_storage().nbytes() == one.weight.nbytes for one in together.values())
    assert torch.equal(together["other"].weight, alone["0"].weight)


def test_rounds_that_fit_the_memory_give_the_same(prepare: Prepare, monkeypatch: pytest.MonkeyPatch) -> None:
    place = correlated(prepare)
    once = round_by_gptq(Gptq(), place.context, place.layers)
    monkeypatch.setattr(gptq, "MAX_BYTES", 1)
    assert [len(names) for names in gptq._rounds(place.layers, [["0"], ["2"]])] == [1, 1]
    again = round_by_gptq(Gptq(), place.context, place.layers)
    assert all(torch.equal(once[name].weight, again[name].weight) for name in once)


def test_blocks_are_rounded_as_a_whole_is(prepare: Prepare, monkeypatch: pytest.MonkeyPatch) -> None:
    place = correlated(prepare)
    whole = round_by_gptq(Gptq(), place.context, place.layers)
    monkeypatch.setattr(gptq, "BLOCK", 5)
    parts = round_by_gptq(Gptq(), place.context, place.layers)
    different = (whole["0"].weight != parts["0"].weight).float().mean()  # a sum in another order may round otherwise
    assert float(different) < 0.02


def test_what_matters_most_is_rounded_first() -> None:
    torch.manual_seed(0)
    values = torch.randn(64, 16) @ torch.randn(16, 16) * torch.logspace(-2, 1, 16)
    moments, weight = damped(values.T @ values, 0.01), torch.randn(8, 16)
    scale, zero = torch.full((8, 1), 0.3), torch.zeros(8, 1)
    numbers = gptq.optimal(weight, scale, zero, QINT8, moments)
    error = float(((numbers * scale - weight) @ moments * (numbers * scale - weight)).sum())
    assert torch.equal(numbers[:, -1], torch.round(weight[:, -1] / 0.3))  # nothing before it made an error
    nearest = torch.round(weight / scale) * scale - weight
    assert error < float((nearest @ moments * nearest).sum())


def test_the_factor_is_that_of_the_inverse() -> None:
    torch.manual_seed(0)
    values = torch.randn(40, 12)
    moments = damped(values.T @ values, 0.01)
    upper = inverse_factor(moments)
    torch.testing.assert_close(upper.T @ upper, torch.linalg.inv(moments))
    assert torch.equal(upper, upper.triu())


def test_dead_channels_and_a_singular_matrix_do_no_harm(prepare: Prepare) -> None:
    place = correlated(prepare)
    moments = torch.zeros(32, 32)
    moments[:4, :4] = 1.0
    found = gptq._rounded([place.layers["0"]], moments, 0.01)["0"]
    torch.testing.assert_close(found.effective_weight[:, 4:], place.layers["0"].effective_weight[:, 4:])


def test_casts_and_float8_are_left_alone(prepare: Prepare) -> None:
    place = correlated(prepare, weights={"dtype": "float16"}, activations=None)
    assert round_by_gptq(Gptq(), place.context, place.layers) == {}


CONVOLUTIONS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "1d": (lambda: nn.Conv1d(6, 8, 5, padding=2), (6, 40)),
    "2d": (lambda: nn.Conv2d(6, 8, 3, stride=2), (6, 15, 15)),
    "3d": (lambda: nn.Conv3d(2, 8, 3), (2, 7, 7, 7)),
    "grouped": (lambda: nn.Conv2d(6, 8, 3, groups=2), (6, 11, 11)),
    "depthwise": (lambda: nn.Conv2d(6, 12, 3, groups=6, padding=1), (6, 11, 11)),
    "one tap": (lambda: nn.Conv2d(16, 8, 1), (16, 9, 9)),
    "in another order": (lambda: nn.Conv2d(6, 8, 3).to(memory_format=torch.channels_last), (6, 11, 11)),  # type: ignore[call-overload]
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
@pytest.mark.parametrize("weights", [{}, {"scheme": "asymmetric"}, {"granularity": "per_tensor"}])
def test_convolutions_of_inputs_that_resemble_their_neighbours_gain(
    prepare: Prepare, name: str, weights: dict[str, str]
) -> None:
    torch.manual_seed(0)
    make, shape = CONVOLUTIONS[name]
    module = make()
    dims = [*range(2, len(shape) + 1)]
    samples = torch.randn(64, *shape)
    samples = sum(samples.roll([i] * len(dims), dims) for i in range(4))  # type: ignore[assignment]
    samples = samples + 8 * samples.mean(1, keepdim=True)
    place = prepare(nn.Sequential(module), samples, weights=weights, activations=None)
    changed = round_by_gptq(Gptq(layer_types=(type(module).__name__,)), place.context, place.layers)
    assert place.db(changed) > place.db(place.layers) + 0.5
    assert changed["0"].rounding == "gptq"
    assert changed["0"].weight.stride() == place.layers["0"].weight.stride()


class Fork(nn.Module):
    """Convolutions of several shapes that read the same values."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.same, self.narrow = (
            nn.Conv2d(4, 6, 3, padding=1),
            nn.Conv2d(4, 6, 3, padding=1),
            nn.Conv2d(4, 6, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.wide(x) + self.same(x) + self.narrow(x)
        return output


def test_convolutions_that_share_their_input_come_out_as_if_alone(prepare: Prepare) -> None:
    torch.manual_seed(0)
    place = prepare(Fork(), torch.randn(48, 4, 6, 6), activations=None)
    assert len(set(place.context.sharing.values())) == 1
    settings = Gptq(layer_types=("Conv2d",))
    changed = round_by_gptq(settings, place.context, place.layers)
    assert set(changed) == {"wide", "same", "narrow"}
    apart = replace(place.context, sharing={})
    alone = round_by_gptq(settings, apart, place.layers)
    assert all(torch.equal(changed[name].weight, alone[name].weight) for name in changed)


def test_convolutions_that_took_too_long_or_have_no_patches_are_left_alone(
    prepare: Prepare, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = prepare(nn.Sequential(nn.ConvTranspose1d(2, 2, 3), nn.Conv1d(2, 2, 4)), torch.randn(48, 2, 9))
    both = Gptq(layer_types=("Conv1d", "ConvTranspose1d"))
    assert set(round_by_gptq(both, place.context, place.layers)) == {"1"}
    monkeypatch.setattr(gptq, "MOST_COLUMNS", 7)
    assert round_by_gptq(both, place.context, place.layers) == {}
