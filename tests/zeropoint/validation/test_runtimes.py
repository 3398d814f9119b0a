"""Rows of the report: each artifact in each runtime at each level is measured, modelled, or skipped with a reason."""

import io
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from torch import Tensor, nn

from tests.job_program import shared_second_process
from tests.networks import BATCH, Example
from tests.zeropoint.conftest import PROGRAM_FORMATS, _quantize
from zeropoint.data.dataset import open_dataset
from zeropoint.formats import write_formats
from zeropoint.layers.result import Quantized
from zeropoint.loading.compiled import NO_COMPILER, compiling_program
from zeropoint.loading.loadback import LoadbackClient, Pipes
from zeropoint.model.source import ProgramSource
from zeropoint.schema.decisions import TargetReport
from zeropoint.schema.recipe import Recipe, ValidationSettings
from zeropoint.schema.report import EvaluationReport, Report
from zeropoint.schema.runtimes import ProcessorLevel, RuntimeReport
from zeropoint.schema.target import AccuracyTarget
from zeropoint.simulation.processor import SATURATING
from zeropoint.sources.program import open_uploaded_program
from zeropoint.validation.below import below_warnings, in_words, remedy, rows_below
from zeropoint.validation.compiling import NO_MEMORY, SHORT_JOB, Compiled, Taken, Wish, measure_compiled
from zeropoint.validation.evaluation import Evaluation, evaluate
from zeropoint.validation.report import Effort, Validated, build_plan, build_report, judged, validation_failed
from zeropoint.validation.runs import MOST_SAMPLES, RuntimeRuns
from zeropoint.validation.runtimes import runtime_reports, wanted_runs


class OneSign(nn.Module):
    """Weights of one sign and inputs above zero: nearly every pair saturates where kernels do."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.head = nn.Conv2d(2, 4, 3), nn.Linear(16, 5)
        for layer in (self.convolution, self.head):
            layer.weight.data = layer.weight.data.abs() + 1

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        scores = self.head(self.convolution(x).flatten(1))
        return scores, scores.argmax(-1)


def one_sign() -> Example:
    torch.manual_seed(0)
    samples = torch.rand(MOST_SAMPLES + 36, 2, 4, 4)
    return Example(OneSign(), (samples[:2],), ({0: BATCH},), {"x": samples})


@dataclass(frozen=True)
class Saved:
    result: Quantized
    folder: Path
    reader: LoadbackClient

    def evaluation(self, wish: Wish) -> Evaluation:
        assert isinstance(self.result.source, ProgramSource)
        samples = open_dataset(self.folder / "dataset.safetensors", self.result.source.inputs, None)
        assert self.reader.open(self.folder)
        return evaluate(self.result, samples, self.reader, lambda *_: None, wanted_runs(self.result, wish))

    def rows(self, wish: Wish) -> list[RuntimeReport]:
        evaluation = self.evaluation(wish)
        return runtime_reports(self.result, evaluation, self.reader.loaded, wish, Compiled(reason=SHORT_JOB))


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Saved]:
    """A result whose pairs are not limited."""
    folder, example = tmp_path_factory.mktemp("one_sign"), one_sign()
    source = open_uploaded_program(example.export(folder / "uploaded.pt2"), "cpu")
    result = _quantize(source, example, folder, {"formats": PROGRAM_FORMATS, "target_isa": "vnni"})
    list(write_formats(result, folder, PROGRAM_FORMATS))
    with shared_second_process(folder) as reader:
        yield Saved(result, folder, reader)


LEVELS: tuple[ProcessorLevel, ...] = get_args(ProcessorLevel)


def wish(level: ProcessorLevel, **settings: Any) -> Wish:
    return Wish(PROGRAM_FORMATS, own=level, of_torch=level, **settings)


def of(rows: list[RuntimeReport], runtime: str) -> dict[ProcessorLevel, RuntimeReport]:
    return {row.level: row for row in rows if row.runtime == runtime}


@pytest.mark.sampled(4)
@pytest.mark.parametrize("target_isa", ["any", "vnni", "amx"])
@pytest.mark.parametrize("level", LEVELS)
def test_each_row_has_numbers_or_a_reason(saved: Saved, level: ProcessorLevel, target_isa: str) -> None:
    rows = saved.rows(wish(level, target_isa=target_isa))
    assert {row.artifact for row in rows} == {"model.pt2", "model.onnx"}
    assert {row.runtime for row in rows} == {"torch", "inductor", "onnxruntime"}
    for row in rows:
        assert (row.sqnr_db is not None) == (row.basis != "skipped") == (row.samples > 0)
        assert row.basis == "measured" or row.reason
        assert row.counts == (row.basis != "skipped" and (row.level not in SATURATING or target_isa == "any")) or (
            row.runtime == "torch"
        )
    for runtime in ("inductor", "onnxruntime"):
        found = of(rows, runtime)
        assert level in found
        assert any(row.counts for row in found.values())
        lower = level in ("avx512", "avx_vnni", "avx512_vnni", "amx_int8")
        assert ("avx2" in found) == (
            level == "avx2" or (lower and not (runtime == "onnxruntime" and level == "avx512"))
        )


def test_the_saturating_level_is_far_below(saved: Saved) -> None:
    rows = saved.rows(wish("avx512_vnni"))
    for runtime in ("inductor", "onnxruntime"):
        exact, lower = (of(rows, runtime)[level] for level in ("avx512_vnni", "avx2"))
        assert abs(exact.loss_db or 0.0) < 1
        assert (lower.loss_db or 0.0) > 10
        assert lower.basis == "modelled"
    assert of(rows, "onnxruntime")["avx512_vnni"].basis == "measured"
    assert of(rows, "inductor")["avx512_vnni"].reason is not None


def test_what_takes_long_runs_on_the_first_samples(saved: Saved) -> None:
    rows = saved.rows(wish("avx512_vnni"))
    assert {row.samples for row in rows if row.level == "avx512_vnni"} == {MOST_SAMPLES + 36}
    assert {row.samples for row in rows if row.level == "avx2"} == {MOST_SAMPLES}


def test_none_gives_no_rows(saved: Saved) -> None:
    asked = wish("avx512_vnni", mode="none")
    assert wanted_runs(saved.result, asked) == []
    assert saved.rows(asked) == []


def test_limited_pairs_lose_nothing_and_need_no_run(tmp_path: Path) -> None:
    example = one_sign()
    source = open_uploaded_program(example.export(tmp_path / "uploaded.pt2"), "cpu")
    result = _quantize(source, example, tmp_path, {"formats": ["pt2"]})
    list(write_formats(result, tmp_path, ("safetensors", "pt2")))
    with shared_second_process(tmp_path) as reader:
        rows = Saved(result, tmp_path, reader).rows(Wish(("pt2",), own="avx2", of_torch="avx2"))
    assert [abs(row.loss_db or 0.0) < 1 for row in rows] == [True, True]
    weight_only = Recipe(activations=None)
    unmultiplied = _quantize(source, example, tmp_path, weight_only.model_dump(exclude_unset=True))
    assert wanted_runs(unmultiplied, wish("avx2")) == []


def test_a_bound_is_missed_by_the_worst_row_that_counts(saved: Saved) -> None:
    rows = saved.rows(wish("avx512_vnni"))
    whole = of(rows, "torch")["avx512_vnni"].sqnr_db
    assert whole is not None
    assert rows_below(rows, whole - 2, whole) == [row for row in rows if row.level == "avx2"]
    assert rows_below(rows, -50.0, whole) == []
    assert "torch, compiled at avx2" in in_words(rows_below(rows, whole - 2, whole))
    left_out = saved.rows(wish("avx512_vnni", target_isa="vnni"))
    assert rows_below(left_out, whole - 2, whole) == []


def test_remedies_speak_of_the_cause(saved: Saved) -> None:
    rows = saved.rows(wish("avx512_vnni"))
    (warning,) = below_warnings(rows, Recipe())
    assert (warning.code, warning.level) == ("runtime_below", "warning")
    assert "avx2" in warning.detail
    assert "target_isa" in warning.remedy
    own = saved.rows(wish("avx2", target_isa="vnni"))
    (note,) = below_warnings(own, Recipe(target_isa="vnni"))
    assert note.level == "note"
    assert '"any"' in note.remedy
    assert "saturate" in remedy([row for row in saved.rows(wish("avx2")) if row.runtime != "torch"])
    everywhere = [row.model_copy(update={"level": "avx512_vnni"}) for row in rows if row.level == "avx2"]
    assert "layers" in remedy(everywhere)


def test_a_target_is_missed_where_a_runtime_misses_it(saved: Saved, report: Report) -> None:
    rows = saved.rows(wish("avx512_vnni"))
    whole = of(rows, "torch")["avx512_vnni"].sqnr_db
    assert whole is not None
    summary = report.summary.model_copy(update={"sqnr_db": whole})
    asked = AccuracyTarget(min_sqnr_db=whole - 2)
    target = TargetReport(asked=asked, met=True, value=whole, layers_in_float=0, macs_in_float=0.0, detail="Met.")
    assert judged(target, summary, [row for row in rows if row.level != "avx2"]) == target
    missed = judged(target, summary, rows)
    assert missed is not None
    assert not missed.met
    assert "avx2" in missed.detail


@pytest.fixture
def report(saved: Saved) -> Report:
    return build_plan(saved.result, Effort())


@pytest.mark.parametrize("mode", ["auto", "compiled"])
def test_without_a_compiler_the_reason_says_so(saved: Saved, mode: str, tmp_path: Path) -> None:
    runs, ends = RuntimeRuns(), Pipes(io.BytesIO(), io.BytesIO(), lambda: 0)
    runs.take([torch.ones(2, 3)])
    asked, reader = wish("avx512_vnni", mode=mode, compile_seconds=60.0), LoadbackClient(ends, tmp_path)
    compiled = measure_compiled(saved.result.source, runs, reader, asked, tmp_path, taken=Taken(50.0, 50.0))
    assert compiled == Compiled(reason=NO_COMPILER)


def test_a_program_that_does_not_fit_beside_the_job_is_not_compiled(saved: Saved, tmp_path: Path) -> None:
    with (tmp_path / "model.pt2").open("wb") as file:
        file.truncate(2**42)  # a hole takes no room
    runs, ends = RuntimeRuns(), Pipes(io.BytesIO(), io.BytesIO(), lambda: 0, compiling_program)
    runs.take([torch.ones(2, 3)])
    asked, reader = wish("avx512_vnni", mode="compiled", compile_seconds=60.0), LoadbackClient(ends, tmp_path)
    compiled = measure_compiled(saved.result.source, runs, reader, asked, tmp_path, taken=Taken(50.0, 50.0))
    assert compiled == Compiled(reason=NO_MEMORY)


@pytest.mark.parametrize(
    ("mode", "taken", "seconds"),
    [
        ("auto", Taken(5, 5), 0),
        ("auto", Taken(500, 5), 0),  # on a busy machine
        ("auto", Taken(25, 25), 60),
        ("auto", Taken(80, 80), 80),
        ("auto", Taken(500, 500), 120),
        ("compiled", Taken(1, 1), 120),
        ("modelled", Taken(500, 500), 0),
    ],
)
def test_compiling_unasked_takes_a_minute_or_as_long_as_the_job(mode: str, taken: Taken, seconds: float) -> None:
    assert wish("avx2", mode=mode, compile_seconds=120.0).compile_limit(taken) == seconds


def test_a_bound_fails_the_check_with_runtime_level_and_cause(saved: Saved) -> None:
    rows = saved.rows(wish("avx512_vnni"))
    evaluation = saved.evaluation(wish("avx512_vnni"))
    whole = of(rows, "torch")["avx512_vnni"].sqnr_db
    assert whole is not None
    bound = ValidationSettings(min_sqnr_db=whole - 2)
    result = replace(saved.result, recipe=saved.result.recipe.model_copy(update={"validation": bound}))
    about = EvaluationReport(source="calibration_samples", samples=evaluation.samples)
    report = build_report(result, Validated(about, True, evaluation, saved.reader.loaded, rows), Effort())
    assert report.verdict == "failed"
    failure = validation_failed(report)
    assert "onnxruntime at avx2" in failure.detail
    assert "saturate" in failure.remedy
