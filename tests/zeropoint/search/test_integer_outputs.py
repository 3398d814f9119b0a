"""Results become integers as far as the whole model's SQNR allows; what that costs is foreseen."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tests.networks import BATCH, Example
from tests.zeropoint.conftest import QuantizeExample
from zeropoint.data.dataset import Dataset, open_dataset
from zeropoint.layers.quantized_layer import QuantizedLayer
from zeropoint.layers.result import Quantized
from zeropoint.model.source import ProgramSource
from zeropoint.search import integer_outputs
from zeropoint.simulation.fake_quant import rounded_outputs, simulated
from zeropoint.simulation.measure import Evaluator


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = (nn.Conv2d(width, width, 3, padding=1) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = torch.relu(x + self.second(torch.relu(self.first(x))))
        return output


def blocks(seed: int, count: int = 4, width: int = 8) -> Example:
    """A residual network whose branches have few large values, as those of trained ones."""
    torch.manual_seed(seed)
    network = nn.Sequential(
        *(nn.Conv2d(1, width, 3, padding=1), nn.ReLU(), *(Block(width) for _ in range(count))),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 5)),
    ).eval()
    for block in (module for module in network if isinstance(module, Block)):
        block.second.weight.data[0] *= 6
    x = torch.randn(96, 1, 8, 8)
    return Example(network, (x[:2],), {"input": {0: BATCH}}, {"input": x})


@contextmanager
def in_integers(layers: Iterable[QuantizedLayer]) -> Iterator[None]:
    layers = list(layers)
    with simulated(layers), rounded_outputs(layers):
        yield


def lost_db(result: Quantized, samples: Dataset) -> float:
    """By how much integer results lower the SQNR."""
    program, written = (Evaluator(result.source, samples, effect) for effect in (simulated, in_integers))
    before, after = (measured.noise(result.layers).db for measured in (program, written))
    assert before is not None
    assert after is not None
    return before - after


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("bound", [integer_outputs.MOST_LOST_DB, 40.0])
def test_the_cost_is_foreseen_and_bounded(
    quantized: QuantizeExample, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int, bound: float
) -> None:
    monkeypatch.setattr(integer_outputs, "MOST_LOST_DB", bound)
    result = quantized(blocks(seed), formats=["onnx"])
    report = result.decisions.integer_outputs
    assert report is not None
    assert report.cost_db <= bound
    outputs = {layer.layer.name: layer.output for layer in result.layers if layer.layer.fused_output is not None}
    assert {name for name, output in outputs.items() if output is None} == set(report.in_float)
    assert isinstance(result.source, ProgramSource)
    samples = open_dataset(tmp_path / "dataset.safetensors", result.source.inputs, None)
    assert lost_db(result, samples) == pytest.approx(report.cost_db, abs=0.5)
    assert lost_db(result, samples) <= bound + 0.1


def test_a_bound_decides_how_many_stay_integers(quantized: QuantizeExample, monkeypatch: pytest.MonkeyPatch) -> None:
    def outputs(bound: float) -> tuple[int, int]:
        monkeypatch.setattr(integer_outputs, "MOST_LOST_DB", bound)
        report = quantized(blocks(0), formats=["onnx"]).decisions.integer_outputs
        assert report is not None
        return report.outputs, len(report.in_float)

    (most, none), (some, others), (nothing, all_of_them) = outputs(40.0), outputs(0.1), outputs(0.0)
    assert (none, nothing) == (0, 0)
    assert most == all_of_them == some + others
    assert 0 < some < most


def test_without_a_format_that_needs_it_nothing_is_rounded(quantized: QuantizeExample) -> None:
    result = quantized(blocks(0))
    assert result.decisions.integer_outputs is None
    assert [layer.output for layer in result.layers] == [None] * len(result.layers)
