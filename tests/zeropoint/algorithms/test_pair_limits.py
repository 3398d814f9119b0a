"""After limiting, no kernel that adds two products in 16 bits saturates; before, many did; and nothing else changes."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.zeropoint.algorithms.conftest import Place, Prepare
from zeropoint.algorithms import pair_limits
from zeropoint.algorithms.bias_correction import correct_biases
from zeropoint.algorithms.pair_limits import limit_pairs
from zeropoint.layers.quantized_layer import QuantizedLayer
from zeropoint.model.hooks import hooked
from zeropoint.primitives.qparams import quantize
from zeropoint.schema.algorithms import BiasCorrection
from zeropoint.simulation.saturation import (
    MLAS,
    ONEDNN,
    ONEDNN_AVX512,
    Geometry,
    Saturation,
    saturated_convolution,
    saturated_linear,
)

KERNELS = {"MLAS": MLAS, "oneDNN": ONEDNN, "oneDNN at AVX-512": ONEDNN_AVX512}


def heavy(module: nn.Module) -> nn.Module:
    """Give a layer weights whose neighbours are large together, as trained ones have."""
    torch.manual_seed(1)
    weight = module.get_parameter("weight")
    with torch.no_grad():
        weight.copy_(torch.rand_like(weight) * weight.new_tensor([1.0, 1.0, -1.0])[torch.randint(3, weight.shape)])
    return module


LINEARS = {f"linear of {size}": (heavy(nn.Linear(size, 24)), (size,)) for size in (3, 16, 33, 258, 386)}
CONVOLUTIONS: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "odd channels": (heavy(nn.Conv2d(5, 16, 3, padding=1)), (5, 7, 7)),
    "one channel": (heavy(nn.Conv2d(1, 8, 3, padding=1)), (1, 9, 9)),
    "points": (heavy(nn.Conv2d(18, 12, 1, stride=2)), (18, 5, 5)),
    "groups": (heavy(nn.Conv2d(12, 8, 3, groups=2, dilation=2)), (12, 9, 9)),
    "odd groups": (heavy(nn.Conv2d(9, 6, (2, 3), groups=3, padding=(1, 0))), (9, 6, 6)),
    "a row of taps": (heavy(nn.Conv1d(7, 8, 5, padding=2)), (7, 20)),
    "a volume": (heavy(nn.Conv3d(3, 8, 2)), (3, 4, 4, 4)),
}
NETWORKS = LINEARS | CONVOLUTIONS
ACTIVATIONS = {"quint8": {}, "qint8": {"dtype": "qint8", "scheme": "symmetric"}}


def saturated(place: Place, layers: Mapping[str, QuantizedLayer], widened: float = 1.0) -> dict[str, int]:
    """How many pairs saturate on the calibration samples, by kernel."""
    (layer,), counts = layers.values(), dict.fromkeys(KERNELS, 0)
    inputs: list[Tensor] = []
    module = layer.layer.module
    assert module is not None
    with torch.no_grad(), hooked(before=[(module, lambda _, arguments: inputs.append(arguments[0]))]):
        for batch in place.context.calibration:
            place.context.source.run(batch)
    for name, kernel in KERNELS.items():
        for values in inputs:
            assert layer.activation is not None
            found, zero_point = Saturation(), int(layer.activation.qparams.zero_point)
            integers = quantize(values * widened, layer.activation.qparams)
            if isinstance(module, nn.Linear):
                saturated_linear(integers, layer.weight, zero_point, kernel, found)
            else:
                geometry = Geometry(module.stride, module.padding, module.dilation, module.groups)  # type: ignore[arg-type]
                saturated_convolution(integers, layer.weight, zero_point, geometry, kernel, found=found)
            counts[name] += int(found.saturated.sum())
    return counts


def placed(prepare: Prepare, name: str, activations: str = "quint8", **recipe: Any) -> Place:
    module, shape = NETWORKS[name]
    torch.manual_seed(0)
    samples = torch.rand(64, *shape) if activations == "quint8" else torch.randn(64, *shape)
    return prepare(nn.Sequential(module), samples, activations=ACTIVATIONS[activations], **recipe)


@pytest.mark.sampled(7)
@pytest.mark.parametrize("activations", ACTIVATIONS)
@pytest.mark.parametrize("name", NETWORKS)
def test_no_pair_reaches_16_bits(prepare: Prepare, name: str, activations: str) -> None:
    place = placed(prepare, name, activations)
    assert max(saturated(place, place.layers).values()) > 0
    limited = {**place.layers, **limit_pairs(place.context, place.layers)}
    assert set(saturated(place, limited).values()) == {0}
    assert set(saturated(place, limited, widened=1.08).values()) == {0}
    assert limited["0"].weight.stride() == place.layers["0"].weight.stride()


@pytest.mark.parametrize("weights", [{"granularity": "per_tensor"}, {"granularity": "per_group", "group_size": 4}])
def test_other_granularities_are_limited_too(prepare: Prepare, weights: dict[str, Any]) -> None:
    place = placed(prepare, "linear of 16", weights=weights)
    assert max(saturated(place, place.layers).values()) > 0
    limited = {**place.layers, **limit_pairs(place.context, place.layers)}
    assert set(saturated(place, limited).values()) == {0}
    assert limited["0"].qparams is not None
    assert place.layers["0"].qparams is not None
    assert limited["0"].qparams.scale.shape == place.layers["0"].qparams.scale.shape


def test_rows_that_keep_the_limit_stay_as_they_are(prepare: Prepare) -> None:
    layer = nn.Linear(16, 6)
    with torch.no_grad():
        layer.weight[:3] = torch.rand(3, 16) * torch.tensor([1.0, -1.0]).repeat(8)  # neighbours of different signs
        layer.weight[3:] = torch.rand(3, 16) + 1
    place = prepare(nn.Sequential(layer), torch.rand(64, 16))
    before, after = place.layers["0"], limit_pairs(place.context, place.layers)["0"]
    assert before.qparams is not None
    assert after.qparams is not None
    assert torch.equal(before.weight[:3], after.weight[:3])
    assert torch.equal(before.qparams.scale[:3], after.qparams.scale[:3])
    assert (after.limited_outputs, after.rounding) == (3, "limited")


def test_it_is_no_change_where_inputs_are_too_small_to_saturate(prepare: Prepare) -> None:
    """One sample has a large value in the first channel; the columns beside it never meet more than a tenth of it."""
    samples = torch.rand(128, 16) / 10
    samples[0, 0] = 1
    place = prepare(nn.Sequential(NETWORKS["linear of 16"][0]), samples)
    assert limit_pairs(place.context, place.layers) == {}


def test_depthwise_and_weight_only_layers_are_exact_already(prepare: Prepare) -> None:
    depthwise = prepare(nn.Sequential(heavy(nn.Conv2d(8, 8, 3, groups=8))), torch.rand(64, 8, 6, 6))
    assert limit_pairs(depthwise.context, depthwise.layers) == {}
    weight_only = prepare(nn.Sequential(NETWORKS["linear of 16"][0]), torch.rand(64, 16), activations=None)
    assert limit_pairs(weight_only.context, weight_only.layers) == {}


def test_a_second_time_changes_nothing(prepare: Prepare) -> None:
    place = placed(prepare, "groups")
    limited = {**place.layers, **limit_pairs(place.context, place.layers)}
    again = {**limited, **limit_pairs(place.context, limited)}
    assert torch.equal(limited["0"].weight, again["0"].weight)


def test_a_shared_weight_stays_one(prepare: Prepare) -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = heavy(nn.Linear(16, 16)), nn.Linear(16, 16)
            self.second.weight = self.first.weight  # type: ignore[assignment]

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.second(self.first(x).relu())
            return y

    place = prepare(Twice(), torch.rand(64, 16))
    limited = limit_pairs(place.context, place.layers)
    assert len(limited) == len(place.layers) == 2
    first, second = limited.values()
    assert torch.equal(first.weight, second.weight)
    assert first.qparams is not None
    assert second.qparams is not None
    assert torch.equal(first.qparams.scale, second.qparams.scale)


@pytest.mark.parametrize("name", NETWORKS)
def test_usual_weights_cost_little(prepare: Prepare, name: str) -> None:
    """Seven bits for all would cost 6 dB."""
    module, shape = NETWORKS[name]
    heavier = module.get_parameter("weight").detach().clone()
    with torch.no_grad():
        module.get_parameter("weight").copy_(torch.randn_like(heavier))
    place = prepare(nn.Sequential(module), torch.rand(64, *shape))
    limited = {**place.layers, **limit_pairs(place.context, place.layers)}
    with torch.no_grad():
        module.get_parameter("weight").copy_(heavier)
    before, after = place.layers["0"].weight_sqnr_db, limited["0"].weight_sqnr_db
    assert before is not None
    assert after is not None
    assert after > before - 5


def alike(name: str) -> Tensor:
    """Samples whose neighbours, channels and positions alike, have similar values."""
    torch.manual_seed(0)
    shape = NETWORKS[name][1]
    channels = torch.rand(64, 1, *[1] * (len(shape) - 1)).expand(64, *shape)
    return (0.7 * channels + 0.3 * torch.rand(64, *shape)).contiguous()


@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "linear of 3"])  # a pair and one other
def test_the_other_weights_compensate_for_what_limits_take(
    prepare: Prepare, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = prepare(nn.Sequential(NETWORKS[name][0]), alike(name))

    def db() -> float:
        limited = {**place.layers, **limit_pairs(place.context, place.layers)}
        assert set(saturated(place, limited).values()) == {0}
        return place.db({**limited, **correct_biases(BiasCorrection(), place.context, limited)})

    with_them = db()
    monkeypatch.setattr(pair_limits, "descend", lambda *_: None)
    assert with_them > db() + 0.1


@pytest.mark.parametrize("bias", [True, False])
def test_means_count_where_no_bias_can_hold_them(prepare: Prepare, bias: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    place = placed(prepare, "linear of 33")
    monkeypatch.setattr(type(place.context), "has_own_bias", lambda *_: bias)
    limited = {**place.layers, **limit_pairs(place.context, place.layers)}
    corrected = limited if not bias else {**limited, **correct_biases(BiasCorrection(), place.context, limited)}
    assert place.db(corrected) > place.db(place.layers) - 3


def test_rounds_of_layers_give_the_same(prepare: Prepare, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    layers = [heavy(nn.Linear(16, 16)), nn.ReLU(), heavy(nn.Linear(16, 16)), nn.ReLU(), heavy(nn.Linear(16, 8))]
    place = prepare(nn.Sequential(*layers), torch.rand(64, 16))
    together = limit_pairs(place.context, place.layers)
    monkeypatch.setattr(pair_limits, "MOST_BYTES", 1)
    apart = limit_pairs(place.context, place.layers)
    assert together.keys() == apart.keys() == {"0", "2", "4"}
    assert all(torch.equal(together[name].weight, apart[name].weight) for name in apart)


@pytest.mark.parametrize("name", ["linear of 33", "odd channels", "points"])
def test_few_samples_say_little_about_the_largest_inputs(
    prepare: Prepare, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Inputs of other samples are half as large again in all channels but the first, which gives the range."""
    module, shape = NETWORKS[name]
    torch.manual_seed(0)
    samples = torch.rand(32, *shape) * 0.55
    samples[0].view(-1)[0] = 1
    place = prepare(nn.Sequential(module), samples)

    def others() -> int:
        limited = {**place.layers, **limit_pairs(place.context, place.layers)}
        return max(saturated(place, limited, widened=1.5).values())

    assert others() == 0
    monkeypatch.setattr(pair_limits, "ENOUGH_SAMPLES", 1)
    assert others() > 0
