"""The probe against the truth: the noise that each layer makes alone."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tests.networks import Example, audio, convolutional, prenorm, residual
from tests.zeropoint.conftest import QuantizeExample
from zeropoint.calibration.collect import Wanted, collect
from zeropoint.calibration.ranges import static_inputs
from zeropoint.data.calls import IterableBatches, read_inputs
from zeropoint.data.dataset import Dataset, open_dataset
from zeropoint.layers.quantize import quantize_layer
from zeropoint.layers.result import Quantized
from zeropoint.layers.selection import select
from zeropoint.model.source import ProgramSource
from zeropoint.schema.recipe import Recipe
from zeropoint.simulation.measure import Evaluator
from zeropoint.simulation.sensitivity import Sensitivity, probe
from zeropoint.sources.module import module_source


def rank_correlation(left: list[float], right: list[float]) -> float:
    ranks = [torch.tensor(values).argsort().argsort().double() for values in (left, right)]
    return float(torch.corrcoef(torch.stack(ranks))[0, 1])


def samples_of(result: Quantized, folder: Path) -> Dataset:
    assert isinstance(result.source, ProgramSource)
    return open_dataset(folder / "dataset.safetensors", result.source.inputs, None)


def truth(result: Quantized, gate: Evaluator) -> dict[str, float]:
    return {layer.layer.name: gate.noise([layer]).noise for layer in result.layers}


@pytest.mark.parametrize("make", [convolutional, residual, prenorm, audio], ids=lambda make: make.__name__)
def test_it_ranks_layers_as_they_are(
    quantized: QuantizeExample, make: Callable[[int], Example], tmp_path: Path
) -> None:
    example = make(32)
    result = quantized(example, weights={"granularity": "per_tensor"})
    samples = samples_of(result, tmp_path).between(0, 16)
    found = probe(result.source, {layer.layer.name: layer for layer in result.layers}, samples)
    exact = truth(result, Evaluator(result.source, samples))
    assert found is not None
    assert found.noise.keys() == exact.keys()
    names = list(exact)
    assert rank_correlation([found.noise[name] for name in names], [exact[name] for name in names]) > 0.7
    for name in names:  # within a factor: two random vectors, and noise that is not infinitely small
        assert 0.2 * exact[name] <= found.noise[name] <= 5 * exact[name], name


def test_work_is_counted_in_multiply_accumulates(quantized: QuantizeExample, tmp_path: Path) -> None:
    result = quantized(prenorm(16))
    samples = samples_of(result, tmp_path)
    found = probe(result.source, {layer.layer.name: layer for layer in result.layers}, samples)
    assert found is not None
    assert found.macs["query"] == 16 * 5 * 8 * 8
    assert found.macs["up"] == 16 * 5 * 8 * 16


def test_writes_in_place_behind_a_layer_do_no_harm() -> None:
    class InPlace(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.second(self.first(x).relu_())
            return y

    found = _probed(InPlace())
    assert found is not None
    assert min(found.noise.values()) > 0


def test_a_model_that_can_not_be_differentiated_is_not_ranked() -> None:
    class Rounding(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.linear(x).detach()  # type: ignore[no-any-return]

    assert _probed(Rounding()) is None


def _probed(module: nn.Module) -> Sensitivity | None:
    source = module_source(module.eval())
    calls = IterableBatches([torch.randn(8, 4)], read_inputs)
    choices, _ = select(source.layers, Recipe())
    activations = static_inputs(choices, collect(source, source.layers, calls, lambda *_: None, Wanted()))
    return probe(source, {c.layer.name: quantize_layer(c, activations[c.layer.name]) for c in choices}, calls)


def test_the_recipe_asks_for_it(tmp_path: Path, quantized: QuantizeExample) -> None:
    result = quantized(convolutional(), sensitivity=True)
    assert result.decisions.sensitivity.keys() == {layer.layer.name for layer in result.layers}
    alone = {name: 10 ** (-db / 10) for name, db in result.decisions.sensitivity.items()}
    db = Evaluator(result.source, samples_of(result, tmp_path)).noise(result.layers).db
    assert db is not None
    assert 0.1 < sum(alone.values()) / 10 ** (-db / 10) < 10
    assert quantized(convolutional(), sensitivity=False).decisions.sensitivity == {}
