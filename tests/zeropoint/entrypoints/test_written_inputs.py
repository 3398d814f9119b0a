"""A model that writes into its inputs gives what it gives when it is spelled without writing; no sample changes."""

from collections.abc import Callable, Iterable
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from tests.job_program import run_job
from tests.networks import BATCH
from zeropoint import quantize
from zeropoint.loading.quantized_model import QuantizedModel
from zeropoint.schema.job import EXIT_OK, OUT_FOLDER, REPORT_FILE, JobSpec
from zeropoint.schema.presets import PRESETS
from zeropoint.schema.report import Report

pytestmark = pytest.mark.sampled(15)

Prepare = Callable[[Tensor], Tensor]


def directly(x: Tensor) -> Tensor:
    return x.sub_(0.5).div_(0.25)


def through_a_view(x: Tensor) -> Tensor:
    x[:, 4:].sub_(0.5)
    x.view(-1).div_(0.25)
    return x


def by_index(x: Tensor) -> Tensor:
    x[:, 0] = 3.0
    x[x < 0.2] = 0.0
    return x


def by_index_put(x: Tensor) -> Tensor:
    return x.index_put_((torch.tensor([1, 2]).unsqueeze(1), torch.tensor([0, 5])), torch.ones(()), accumulate=True)


def into_out(x: Tensor) -> Tensor:
    torch.mul(x, 4.0, out=x)
    return x


def by_copy(x: Tensor) -> Tensor:
    return x.copy_(x.flip(1) * 3.0)


SPELLINGS: tuple[Prepare, ...] = (directly, through_a_view, by_index, by_index_put, into_out, by_copy)


def in_every_way(x: Tensor) -> Tensor:
    for write in SPELLINGS:
        x = write(x)
    return x.mul_(0.1)


class Network(nn.Module):
    """Two linears behind a preparation that may write into what it gets; the second input may be written too."""

    def __init__(self, prepare: Prepare, *, writes: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inner = nn.Linear(16, 16)
        self.out = nn.Linear(16, 4)
        self.prepare, self.writes = prepare, writes

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        first, second = (x, y) if self.writes else (x.clone(), y.clone())
        second.mul_(0.5)
        result: Tensor = self.out(torch.relu(self.inner(self.prepare(first) + second)))
        return result


def calls() -> list[tuple[Tensor, Tensor]]:
    torch.manual_seed(1)
    return [(torch.rand(4, 16), torch.rand(4, 16)) for _ in range(16)]


def exported(model: nn.Module) -> torch.export.ExportedProgram:
    with torch.no_grad():  # or torch.export would list a copy of the written input as an output
        return torch.export.export(model.eval(), calls()[0], dynamic_shapes=({0: BATCH}, {0: BATCH}))


def as_module(model: nn.Module, _: Path) -> nn.Module:
    return model


def as_program(model: nn.Module, _: Path) -> torch.export.ExportedProgram:
    return exported(model)


def as_file(model: nn.Module, folder: Path) -> Path:
    torch.export.save(exported(model), folder / "uploaded.pt2")
    return folder / "uploaded.pt2"


def tensors(q: QuantizedModel) -> dict[str, Tensor]:
    return load_file(q.folder / "model.safetensors")


@pytest.mark.parametrize("recipe", ["int8-static", "int8-accurate", {"sensitivity": True}], ids=str)
@pytest.mark.parametrize(
    ("enter", "write"), [*product([as_module], SPELLINGS), *product([as_program, as_file], [in_every_way])]
)
def test_writing_changes_neither_result_nor_samples(
    tmp_path: Path, write: Prepare, enter: Callable[..., nn.Module], recipe: str | dict[str, object]
) -> None:
    given = calls()
    q = quantize(enter(Network(write, writes=True), tmp_path), given, recipe=recipe, progress=False)
    assert all(
        torch.equal(a, b)
        for call, before in zip(given, calls(), strict=True)
        for a, b in zip(call, before, strict=True)
    )
    pure = quantize(enter(Network(write, writes=False), tmp_path), calls(), recipe=recipe, progress=False)
    assert q.report.summary.sqnr_db == pure.report.summary.sqnr_db
    expected = tensors(pure)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in tensors(q).items())


def test_more_effort_never_gives_less_than_static() -> None:
    many = [call for _ in range(8) for call in calls()]
    static, accurate = (
        quantize(Network(directly, writes=True), many, recipe=recipe, progress=False).report.summary.sqnr_db
        for recipe in (
            PRESETS[name].recipe.model_copy(update={"target_isa": "vnni"}) for name in ("int8-static", "int8-accurate")
        )
    )
    assert static is not None
    assert accurate is not None
    assert accurate >= static > 30


def in_a_list(rows: Tensor) -> tuple[Tensor, Iterable[object]]:
    return rows, list(torch.split(rows, 4))


def in_a_loader(rows: Tensor) -> tuple[Tensor, Iterable[object]]:
    return rows, DataLoader(TensorDataset(rows), batch_size=4)


def in_numpy(rows: Tensor) -> tuple[Tensor, Iterable[object]]:
    array = rows.numpy()
    return torch.from_numpy(array), [torch.from_numpy(part) for part in np.split(array, len(array) // 4)]


def in_one_whole(rows: Tensor) -> tuple[Tensor, Iterable[object]]:
    return rows, [rows]


@pytest.mark.parametrize("hold", [in_a_list, in_a_loader, in_numpy, in_one_whole])
@pytest.mark.parametrize("target", [False, True])
def test_the_callers_memory_is_never_written(
    hold: Callable[[Tensor], tuple[Tensor, Iterable[object]]], target: bool
) -> None:
    class Alone(Network):
        def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
            return super().forward(x, torch.zeros_like(x))

    torch.manual_seed(1)
    before = torch.rand(64, 16)
    memory, data = hold(before.clone())
    further, evaluation = hold(before.flip(0).clone())
    recipe = {"target": {"min_sqnr_db": 20}} if target else {}
    quantize(Alone(directly, writes=True), data, evaluation_data=evaluation, recipe=recipe, progress=False)
    assert torch.equal(memory, before)
    assert torch.equal(further, before.flip(0))


@pytest.mark.parametrize("preset", ["int8-static", "int8-accurate"])
def test_a_job_on_a_dataset_in_a_file_is_measured_on_the_same_samples(tmp_path: Path, preset: str) -> None:
    """Also with ONNX beside it, which runs after the program in the second process."""
    found = {}
    for writes in (True, False):
        folder = tmp_path / str(writes)
        folder.mkdir()
        as_file(Network(directly, writes=writes), folder)
        x, y = (torch.cat(column) for column in zip(*calls(), strict=True))
        save_file({"x": x, "y": y}, folder / "dataset.safetensors")
        bytes_before = (folder / "dataset.safetensors").read_bytes()
        formats = ["safetensors", "pt2", "onnx"]
        recipe = {"algorithms": [{"kind": "bias_correction"}] if preset == "int8-accurate" else [], "formats": formats}
        spec = JobSpec.model_validate({"model": "uploaded.pt2", "dataset": "dataset.safetensors", "recipe": recipe})
        (folder / "job.json").write_text(spec.model_dump_json())
        assert run_job(folder) == EXIT_OK
        assert (folder / "dataset.safetensors").read_bytes() == bytes_before
        report = Report.model_validate_json((folder / OUT_FOLDER / REPORT_FILE).read_bytes())
        found[writes] = [report.summary.sqnr_db, *(entry.sqnr_db for entry in report.loaded)]
    assert found[True] == pytest.approx(found[False], abs=0.05)
