"""Latency: in a sweep's rows and in those of a report, what bounds it, and what is said where there is none."""

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from tests.job_program import run_job
from tests.networks import convolutional
from tests.zeropoint.conftest import OpenExample
from zeropoint import quantize
from zeropoint.data.dataset import open_dataset
from zeropoint.entrypoints.clock import Clock
from zeropoint.entrypoints.sweep import Sweep
from zeropoint.errors import InvalidRecipe, Unsupported
from zeropoint.formats.onnx import writer as onnx
from zeropoint.layers.selection import require_fit
from zeropoint.loading import timing
from zeropoint.loading.in_process import ReopenedModule
from zeropoint.model.source import ProgramSource, Source
from zeropoint.schema.job import JobSpec
from zeropoint.schema.recipe import Recipe, ValidationSettings
from zeropoint.schema.report import Report
from zeropoint.schema.runtimes import RuntimeReport
from zeropoint.schema.sweep import SweepEntry
from zeropoint.simulation.processor import features
from zeropoint.validation.compiling import Compiled, Wish
from zeropoint.validation.latency import IN_FLOAT, NO_FLOAT, latency, measure_latency
from zeropoint.validation.runs import RuntimeRuns

ENTRIES = [SweepEntry(name="a", recipe=Recipe()), SweepEntry(name="b", recipe=Recipe(activations=None))]


@pytest.fixture
def source(opened: OpenExample) -> ProgramSource:
    return opened(convolutional())


@pytest.fixture
def sweep(tmp_path: Path, source: ProgramSource) -> Sweep:
    samples = open_dataset(convolutional().save_dataset(tmp_path / "d.safetensors"), source.inputs, None)
    (tmp_path / "scratch").mkdir()
    return Sweep(source, samples, None, Clock(lambda _: None), tmp_path / "scratch")


def test_rows_have_latency_where_it_was_asked_for(sweep: Sweep) -> None:
    pytest.importorskip("onnxruntime")
    report = sweep.compare(ENTRIES, latency=True)
    assert all(row.latency_ms and row.float_latency_ms for row in report.rows)
    assert list(sweep.scratch.iterdir()) == []
    assert sweep.compare(ENTRIES).rows[0].latency_ms is None


def test_latency_without_onnxruntime_is_refused_before_any_work(sweep: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx, "find_spec", lambda _: None)
    with pytest.raises(Unsupported, match="Leave latency out") as refused:
        sweep.compare(ENTRIES, latency=True)
    assert refused.value.code == "onnx_unavailable"


def job(folder: Path, validation: Mapping[str, object], formats: list[str]) -> list[RuntimeReport]:
    """Return the rows of runtimes that a job gives."""
    example = convolutional()
    example.export(folder / "model.pt2")
    example.save_dataset(folder / "dataset.safetensors")
    recipe = {"validation": validation, "formats": formats}
    spec = JobSpec.model_validate({"model": "model.pt2", "dataset": "dataset.safetensors", "recipe": recipe})
    (folder / "job.json").write_text(spec.model_dump_json())
    assert run_job(folder) == 0
    return Report.model_validate_json((folder / "out" / "report.json").read_bytes()).runtimes


def require_measured(row: RuntimeReport) -> None:
    told = row.latency
    assert told is not None
    assert (told.reason, told.processor) == (None, features())
    assert told.rounds > 0
    assert told.batch_size > 1
    for middle, quartiles in ((told.ms, told.ms_quartiles), (told.float_ms, told.float_ms_quartiles)):
        assert middle
        assert quartiles
        assert 0 < quartiles[0] <= middle <= quartiles[1]


def test_a_job_times_each_artifact_in_each_runtime_that_ran_it(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    rows = job(tmp_path, {"latency": True}, ["pt2", "onnx"])
    measured = [row for row in rows if row.basis == "measured"]
    assert {row.runtime for row in measured} == {"torch", "onnxruntime"}
    for row in measured:
        require_measured(row)
    assert [row.latency for row in rows if row.basis != "measured"] == [None] * (len(rows) - len(measured))
    assert [path for path in tmp_path.rglob("*") if path.is_dir()] == [tmp_path / "out"]


def test_a_module_is_timed_beside_the_float_one() -> None:
    torch.manual_seed(0)
    result = quantize(nn.Sequential(nn.Linear(8, 4)), torch.randn(64, 8), recipe={"validation": {"latency": True}})
    (row,) = [row for row in result.report.runtimes if row.artifact == "model.pt"]
    require_measured(row)


def test_slow_programs_are_called_twice_at_least_and_no_more_when_the_time_is_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[str] = []
    monkeypatch.setattr(timing, "MOST_SECONDS", 0.0)
    rounds = timing.alternately(lambda: calls.append("quantized"), lambda: calls.append("float"))
    assert calls == ["quantized", "float"] * 2
    assert len(rounds) == 1
    told = latency(rounds, batch_size=5)
    assert (told.rounds, told.batch_size) == (1, 5)
    assert told.ms_quartiles == (told.ms, told.ms)


def test_medians_are_of_each_program_alone() -> None:
    told = latency([[2.0, 8.0], [1.0, 9.0], [6.0, 7.0]], batch_size=1)
    assert (told.ms, told.ms_quartiles) == (2.0, (1.5, 4.0))
    assert (told.float_ms, told.float_ms_quartiles, told.reason) == (8.0, (7.5, 8.5), None)


def test_a_file_without_a_float_one_has_its_own_time() -> None:
    told = latency([[2.0], [1.0], [3.0]], batch_size=1)
    assert (told.ms, told.float_ms, told.reason) == (2.0, None, NO_FLOAT)


def test_the_folder_of_a_hugging_face_model_is_not_timed_and_says_so() -> None:
    network, runs = nn.Linear(2, 2), RuntimeRuns()
    runs.take([torch.zeros(1, 2)])
    source, timer = Source(network, (), {}, 0, 0), ReopenedModule(network, "cpu")
    wish = Wish(("huggingface",), latency=True)
    found = measure_latency(source, runs, timer, wish, Path("nowhere"), compiled=Compiled())
    assert {name: (told.ms, told.reason) for name, told in found.items()} == {"transformers": (None, IN_FLOAT)}


def test_latency_needs_a_graph_and_rows() -> None:
    with pytest.raises(ValidationError, match="rows of runtimes"):
        ValidationSettings(latency=True, runtimes="none")
    recipe = Recipe(activations=None, validation=ValidationSettings(latency=True))
    with pytest.raises(InvalidRecipe, match="/validation/latency"):
        require_fit(recipe, "safetensors")
    require_fit(recipe, "pt2")
