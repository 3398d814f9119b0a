"""What excluding a layer gains: as much as it really does, on the samples that evaluate."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from tests.networks import convolutional, residual
from tests.zeropoint.conftest import QuantizeExample
from zeropoint import quantize
from zeropoint.data.batches import ModelInputs
from zeropoint.data.calls import CallDataset, read_calls
from zeropoint.schema.recipe import Recipe
from zeropoint.schema.report import Report
from zeropoint.simulation.exclusion import MEASURED, MOST_LAYERS, _measured, spread

NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linears": (lambda: nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 32), nn.Linear(32, 8)), (16,)),
    "conv1d": (lambda: nn.Sequential(nn.Conv1d(2, 8, 3), nn.ReLU(), nn.Conv1d(8, 8, 3), nn.Conv1d(8, 4, 1)), (2, 24)),
    "conv2d": (
        lambda: nn.Sequential(nn.Conv2d(2, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(128, 5)),
        (2, 8, 8),
    ),
}


def report_of(name: str, rows: int = 160, *, scaled: bool = False, **recipe: object) -> Report:
    """`scaled`: samples of very different sizes, so that few make most of the noise."""
    torch.manual_seed(0)
    make, shape = NETWORKS[name]
    network = make().eval()
    values = torch.randn(rows, *shape)
    if scaled:
        values *= torch.randn(rows, *[1] * len(shape)).exp()
    data = list(torch.split(values, 16))
    # limits for pairs of weights would depend on which layers are quantized
    recipe = {"target_isa": "vnni", **recipe}
    return quantize(network, data, recipe=recipe, on_failure="ignore", progress=False).report


@pytest.mark.sampled(11)
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("granularity", ["per_channel", "per_tensor"])
def test_excluding_a_layer_gains_what_the_report_says(name: str, granularity: str) -> None:
    told = report_of(name, weights={"granularity": granularity}, sensitivity=True)
    assert told.summary.sqnr_db is not None
    assert len(told.layers) == 3
    for layer in told.layers:
        without = report_of(name, weights={"granularity": granularity}, exclude=[layer.name])
        assert without.summary.sqnr_db is not None
        assert layer.excluding_gains_db is not None
        real = without.summary.sqnr_db - told.summary.sqnr_db
        assert layer.excluding_gains_db == pytest.approx(real, abs=1.0)
        assert layer.excluding_adds_bytes == without.summary.quantized_bytes - told.summary.quantized_bytes
        gain, added = layer.excluding_gains_db, layer.excluding_adds_bytes
        assert layer.excluding == f"Excluding {layer.name!r} gains {gain:.1f} dB for {added:,} bytes."


@pytest.mark.sampled(11)
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("rows", [160, 400])
def test_it_is_what_the_same_layers_without_it_reach(name: str, rows: int) -> None:
    """Noise of single samples is uneven: a few of those that evaluate would say something else."""
    told = report_of(name, rows, scaled=True)
    for layer in told.layers[:3]:
        without = report_of(name, rows, scaled=True, exclude=[layer.name])
        assert told.summary.sqnr_db is not None
        assert without.summary.sqnr_db is not None
        assert layer.excluding_gains_db == pytest.approx(without.summary.sqnr_db - told.summary.sqnr_db, abs=0.05)


def test_it_says_when_algorithms_stay_as_they_are() -> None:
    for kind, kept in (("gptq", True), ("smoothing", False)):
        told = report_of("linears", algorithms=[{"kind": kind}], weights={"granularity": "per_tensor"})
        assert [step.kept for step in told.algorithms] == [kept]
        for layer in told.layers:
            assert layer.excluding is not None
            assert layer.excluding.endswith(", with the same algorithms.") == kept


@pytest.mark.parametrize("few", [True, False])
def test_the_layers_on_top_are_measured(few: bool) -> None:
    """Whatever the prediction put first; of few layers all are."""
    predicted = {str(number): 3.0 - number / 10 for number in range(20)}
    real = {str(number): number / 100 for number in range(20)}
    asked: list[str] = []

    def measure(name: str) -> float:
        asked.append(name)
        return real[name]

    found = _measured(predicted, measure, 1 if few else 1000)
    assert len(asked) == len(set(asked)) == (20 if few else MOST_LAYERS)
    assert all(found[name] == real[name] for name in asked)
    assert asked[:MEASURED] == ["0", "1", "2"]


@pytest.mark.parametrize("name", NETWORKS)
def test_layers_are_sorted_by_what_they_cost(name: str) -> None:
    gains = [layer.excluding_gains_db or 0.0 for layer in report_of(name).layers]
    assert gains == sorted(gains, reverse=True)
    assert gains[0] > gains[-1]


def test_the_artifact_is_the_same_with_and_without(quantized: QuantizeExample) -> None:
    """Only the report changes: no sample is held out for it."""
    for make in (convolutional, residual):
        recipe = {"calibration": {"batch_size": 4}}
        results = [quantized(make(200), **recipe, sensitivity=asked) for asked in (None, True, False)]
        assert [bool(result.decisions.gains) for result in results] == [True, True, False]
        for name, tensor in results[0].tensors.items():
            assert all(torch.equal(tensor, result.tensors[name]) for result in results[1:])


def test_it_is_left_out_where_it_costs_more_than_a_calibration_pass() -> None:
    few = report_of("linears", rows=24)
    assert [layer.sensitivity_db for layer in few.layers] == [None] * 3
    assert [layer.name for layer in few.layers] == ["0", "2", "3"]
    asked = report_of("linears", rows=24, sensitivity=True)
    assert all(layer.sensitivity_db is not None for layer in asked.layers)
    assert all(layer.sensitivity_db is None for layer in report_of("linears", sensitivity=False).layers)


class InPlace(nn.Module):
    """Its output is written over by an operator that no gradient passes."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.first(x)
        squared = hidden * hidden
        hidden.zero_()
        output: Tensor = self.second(squared)
        return output


class Counted(nn.Module):
    """Integers alone come out of it."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        counted: Tensor = self.first(x).argmax(-1)
        return counted


@pytest.mark.parametrize("network", [InPlace(), Counted()])
@pytest.mark.parametrize("asked", [None, True])
def test_a_model_without_gradients_has_no_costs_and_no_error(network: nn.Module, asked: bool | None) -> None:
    torch.manual_seed(0)
    data = list(torch.split(torch.randn(160, 8), 16))
    wish = Recipe(sensitivity=asked)
    told = quantize(network, data, recipe=wish, on_failure="ignore", progress=False).report
    assert [layer.excluding for layer in told.layers] == [None] * len(told.layers)


def test_samples_are_spread_over_all() -> None:
    rows = torch.arange(100.0)[:, None]
    samples: CallDataset = read_calls([ModelInputs([part]) for part in torch.split(rows, 10)], lambda call: call, 4096)  # type: ignore[arg-type,return-value]
    taken = torch.cat([batch[0] for batch in spread(samples, 5)]).flatten()
    assert taken.tolist() == [0, 20, 40, 60, 80]
    assert sum(len(batch[0]) for batch in spread(samples, 1000)) == 100
