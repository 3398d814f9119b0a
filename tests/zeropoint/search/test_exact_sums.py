"""Results are exact on every processor unless the recipe names those that need nothing for it; reports say it."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from zeropoint import load, quantize

IMAGES = [torch.rand(8, 3, 12, 12) for _ in range(16)]


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(3, 12, 3, padding=1), nn.ReLU(), nn.Conv2d(12, 16, 3, stride=2), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10)),
    ).eval()


def program(batch: Tensor) -> torch.export.ExportedProgram:
    rows = torch.export.Dim("rows", min=1, max=512)
    return torch.export.export(network(), (batch,), dynamic_shapes=({0: rows},))


@pytest.mark.parametrize("recipe", ["int8-static", "int8"])
@pytest.mark.parametrize("exported", [True, False])
def test_the_report_counts_layers_and_outputs_and_says_the_cost(tmp_path: Path, recipe: str, exported: bool) -> None:
    result = quantize(program(IMAGES[0]) if exported else network(), IMAGES, recipe=recipe, progress=False)
    limits, layers = result.report.pair_limits, result.report.layers
    assert limits is not None
    changed = [layer.limited_outputs for layer in layers if layer.limited_outputs]
    assert (limits.layers, limits.outputs) == (len(changed), sum(changed))
    assert changed
    assert limits.before_db is not None
    assert limits.after_db is not None
    assert limits.after_db > limits.before_db - 3
    result.save(tmp_path)
    opened = load(tmp_path) if exported else load(tmp_path, model=network())
    assert torch.equal(opened(IMAGES[0]), result(IMAGES[0]))
    assert all(check.passed for check in result.report.checks)


@pytest.mark.parametrize("isa", ["vnni", "amx"])
def test_processors_that_add_in_32_bits_need_nothing(tmp_path: Path, isa: str) -> None:
    def values(**recipe: Any) -> dict[str, Tensor]:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        result = quantize(program(IMAGES[0]), IMAGES, recipe=recipe, progress=False)
        result.save(folder)
        assert (result.report.pair_limits is None) == ("target_isa" in recipe)
        return load_file(folder / "model.safetensors")

    plain, limited = values(target_isa=isa), values()
    assert any(not torch.equal(plain[name], limited[name]) for name in plain if name.endswith("weight"))


def test_weights_alone_need_nothing() -> None:
    result = quantize(program(IMAGES[0]), IMAGES, recipe="int8-weight-only", progress=False)
    assert result.report.pair_limits is None


def test_a_target_is_met_by_the_result_that_is_written() -> None:
    result = quantize(program(IMAGES[0]), IMAGES, recipe={"target": {"min_sqnr_db": 38}}, on_failure="ignore")
    target = result.report.target
    assert target is not None
    assert target.met == ((result.report.summary.sqnr_db or 0) >= 38)
