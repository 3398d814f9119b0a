"""A recipe whose algorithms are kept has ranges from all samples, as one without algorithms has."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from tests.networks import BATCH, Example
from zeropoint.data.dataset import open_dataset
from zeropoint.engine.plan import plan
from zeropoint.engine.quantize import quantize_source
from zeropoint.schema.algorithms import AlgorithmSettings, FoldNormalization, Smoothing
from zeropoint.schema.recipe import Recipe
from zeropoint.simulation.measure import Evaluator
from zeropoint.sources.program import open_uploaded_program

FRESH = 1000
"""Added to the seed of samples that calibrate nothing."""


def sounds() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv1d(2, 8, 3), nn.BatchNorm1d(8), nn.GELU(), nn.Conv1d(8, 8, 3), nn.BatchNorm1d(8), nn.Tanh()),
        *(nn.Flatten(), nn.Linear(32, 6)),
    )


def gated() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv1d(2, 8, 3, padding=1), nn.BatchNorm1d(8), nn.SiLU(), nn.Conv1d(8, 8, 1), nn.Sigmoid()),
        *(nn.AdaptiveAvgPool1d(2), nn.Flatten(), nn.Linear(16, 6)),
    )


def long_tailed(seed: int, samples: int) -> Tensor:
    """Samples of log-normal size: one in twenty is four times as large as the others."""
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.exp(0.8 * torch.randn(samples, 1, 1, generator=generator))
    return torch.randn(samples, 2, 8, generator=generator) * sizes


@pytest.mark.parametrize("make", [sounds, gated])
@pytest.mark.parametrize("seed", range(4))
def test_fresh_samples_are_no_worse_than_without_algorithms(
    tmp_path: Path, make: Callable[[], nn.Module], seed: int
) -> None:
    torch.manual_seed(seed)
    x = long_tailed(seed, 96)
    path = Example(make().eval(), (x[:2],), {"input": {0: BATCH}}, {"input": x}).export(tmp_path / "model.pt2")
    for name, samples in (("samples", x), ("fresh", long_tailed(FRESH + seed, 512))):
        save_file({"input": samples}, tmp_path / f"{name}.safetensors")

    def fresh_db(*algorithms: AlgorithmSettings) -> float:
        recipe = Recipe(target_isa="vnni", algorithms=algorithms)
        source = open_uploaded_program(path, "cpu", fold=recipe.folds)
        samples, fresh = (
            open_dataset(tmp_path / f"{n}.safetensors", source.inputs, None) for n in ("samples", "fresh")
        )
        result = quantize_source(source, recipe, plan(source, recipe, samples), lambda *_: None)
        assert any(step.kept for step in result.decisions.algorithms) == bool(algorithms)
        return Evaluator(source, fresh).noise(result.layers).db or 0.0

    assert fresh_db(FoldNormalization(), Smoothing()) > fresh_db() - 1
