"""Normalizations behind convolutions go into them, where that is the same function; everything else stays."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.networks import BATCH, convolutional, residual
from zeropoint import quantize
from zeropoint.entrypoints.validate import Reference, validate
from zeropoint.sources.program import program_source


class Normalized(nn.Module):
    """A layer, perhaps an activation, a normalization, and what may stand in the way."""

    def __init__(self, layer: nn.Module, norm: nn.Module, between: nn.Module | None = None, reads: str = "") -> None:
        super().__init__()
        self.layer, self.norm, self.between, self.reads = layer, norm, between or nn.Identity(), reads
        for name in ("weight", "bias", "running_mean"):
            if getattr(norm, name, None) is not None:
                nn.init.normal_(getattr(norm, name))
        nn.init.uniform_(norm.running_var, 0.5, 2)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        values = self.layer(x)
        y: Tensor = self.norm(self.between(values))
        if self.reads == "result":
            y = y + values.mean()
        if self.reads == "weight":
            y = y + self.layer.get_parameter("weight").mean()
        if self.reads == "again":
            y = y + self.layer(x).mean()
        return y


def layers(source: Any) -> dict[str, str | None]:
    return {layer.name: layer.reason for layer in source.layers}


def exported(module: nn.Module, x: Tensor, *, decompose: bool = False) -> torch.export.ExportedProgram:
    program = torch.export.export(module.eval(), (x,), dynamic_shapes=({0: BATCH},))
    return program.run_decompositions() if decompose else program


CONVOLUTIONS = {
    "conv1d": (nn.Conv1d(3, 4, 3), nn.BatchNorm1d(4), (2, 3, 9)),
    "conv2d": (nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), (2, 3, 9, 9)),
    "grouped": (nn.Conv2d(4, 8, 3, groups=2, padding="same"), nn.BatchNorm2d(8), (2, 4, 9, 9)),
    "conv3d": (nn.Conv3d(3, 4, 2), nn.BatchNorm3d(4), (2, 3, 4, 4, 4)),
    "transposed": (nn.ConvTranspose2d(3, 4, 2, bias=False), nn.BatchNorm2d(4), (2, 3, 4, 4)),
    "without affine": (nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, affine=False), (2, 3, 9, 9)),
}


@pytest.mark.sampled(5)
@pytest.mark.parametrize("decompose", [False, True], ids=["exported", "decomposed"])
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_it_is_the_same_function(name: str, decompose: bool) -> None:
    layer, norm, shape = CONVOLUTIONS[name]
    x = torch.randn(shape)
    program = exported(Normalized(layer, norm), x, decompose=decompose)
    plain, source = program_source(program), program_source(program, fold=True)
    weight = source.tensors["layer.weight"]
    assert weight.shape == plain.tensors["layer.weight"].shape
    assert source.tensors.keys() == {"layer.weight", "layer.bias"}
    assert layers(source) == {"layer": None} | ({} if name == "without affine" else {"norm": "folded"})
    batch = torch.cat([x, x[:1] / 2])
    with torch.no_grad():
        (expected,), (got,) = plain.run([batch]), source.run([batch])
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)
    assert source.dead_bytes == plain.dead_bytes


KEPT: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "an activation stands between": (Normalized(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()), (2, 3, 9, 9)),
    "the result is read": (Normalized(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), reads="result"), (2, 3, 9, 9)),
    "the weight is read": (Normalized(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), reads="weight"), (2, 3, 9, 9)),
    "it runs again": (Normalized(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), reads="again"), (2, 3, 9, 9)),
    "a linear's": (Normalized(nn.Linear(9, 4), nn.BatchNorm1d(3)), (2, 3, 9)),
    "a linear's rows": (Normalized(nn.Linear(9, 4), nn.BatchNorm1d(4)), (2, 9)),
    "no batch": (Normalized(nn.Conv1d(3, 3, 3, padding=1), nn.BatchNorm1d(9)), (3, 9)),
    "groups": (Normalized(nn.ConvTranspose2d(4, 4, 2, groups=2), nn.BatchNorm2d(4)), (2, 4, 4, 4)),
}


@pytest.mark.parametrize("name", KEPT)
def test_it_stays(name: str) -> None:
    module, shape = KEPT[name]
    program = torch.export.export(module.eval(), (torch.randn(shape),))
    source = program_source(program, fold=True)
    assert layers(source) == layers(program_source(program))
    assert source.tensors.keys() == program_source(program).tensors.keys()


def test_statistics_of_the_batch_itself_stay() -> None:
    module = Normalized(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=True))
    program = torch.export.export(module.train(), (torch.randn(2, 3, 9, 9),))
    assert layers(program_source(program, fold=True))["norm"] == "unsupported"


def test_a_program_without_tensors_has_nothing_to_fold() -> None:
    assert layers(program_source(exported(nn.ReLU(), torch.randn(2, 3)), fold=True)) == {}


def test_nothing_is_folded_unless_it_is_wished() -> None:
    program = exported(residual().module, residual().inputs[0])
    assert layers(program_source(program))["stem.1"] == "unsupported"
    assert layers(program_source(program, fold=True))["stem.1"] == "folded"
    assert "stem.1.weight" in program.state_dict


@pytest.mark.parametrize("decompose", [False, True], ids=["exported", "decomposed"])
def test_a_recipe_folds_and_the_saved_files_are_validated(tmp_path: Path, decompose: bool) -> None:
    example = convolutional()
    path = example.export(tmp_path / "float.pt2", decompose=decompose)
    example.save_dataset(tmp_path / "samples.safetensors")
    recipe = {"algorithms": [{"kind": "fold_normalization"}], "validation": {"on_failure": "warn"}}
    result = quantize(path, [example.dataset["x"]], recipe=recipe)
    assert result.report.verdict == "passed"
    assert {skip.name: skip.reason for skip in result.report.skipped} == {"features.1": "folded", "unused": "dead_code"}
    result.save(tmp_path / "out")
    findings = validate(tmp_path / "out", Reference(path, tmp_path / "samples.safetensors"))
    assert all(check.passed for check in findings.checks)
