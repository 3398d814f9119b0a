"""A sweep: one calibration, a row for each recipe, and what is wrong with one is in its row alone."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import torch

from tests.job_program import run_job
from tests.networks import convolutional
from tests.zeropoint.conftest import OpenExample
from zeropoint.data.dataset import open_dataset
from zeropoint.engine.plan import plan
from zeropoint.engine.quantize import quantize_source
from zeropoint.entrypoints import sweep as sweeping
from zeropoint.entrypoints.clock import Clock
from zeropoint.entrypoints.sweep import Sweep
from zeropoint.files.checkpoints import Checkpoints
from zeropoint.model.source import ProgramSource
from zeropoint.schema.job import EXIT_FAILED, EXIT_OK, Failure, JobSpec, Phase, Progress
from zeropoint.schema.recipe import Recipe
from zeropoint.schema.sweep import SweepEntry, SweepReport
from zeropoint.simulation.measure import Evaluator

MSE = {"activations": {"observer": {"kind": "mse"}}}


def entries(*recipes: Mapping[str, object]) -> list[SweepEntry]:
    return [SweepEntry(name=f"r{i}", recipe=Recipe.model_validate(recipe)) for i, recipe in enumerate(recipes)]


@pytest.fixture
def source(opened: OpenExample) -> ProgramSource:
    return opened(convolutional())


@pytest.fixture
def steps() -> list[Progress]:
    return []


@pytest.fixture
def sweep(tmp_path: Path, source: ProgramSource, steps: list[Progress]) -> Sweep:
    samples = open_dataset(convolutional().save_dataset(tmp_path / "d.safetensors"), source.inputs, None)
    checkpoints = Checkpoints(tmp_path / "checkpoints", "key")
    return Sweep(source, samples, None, Clock(steps.append), tmp_path, checkpoints)


def last(steps: Sequence[Progress], phase: Phase) -> tuple[int, int]:
    return next((step.done, step.total) for step in reversed(steps) if step.phase == phase)


def test_each_row_is_what_its_recipe_gives_alone(sweep: Sweep, source: ProgramSource, steps: list[Progress]) -> None:
    recipes: list[Mapping[str, object]] = [
        {},
        MSE,
        {"activations": None},
        {"weights": {"granularity": "per_tensor"}, "exclude": ["head"]},
    ]
    report = sweep.compare(entries(*recipes))
    for row, recipe in zip(report.rows, recipes, strict=True):
        alone = Recipe.model_validate(recipe)
        planned = plan(source, alone, sweep.samples)
        assert planned.held_out is not None
        result = quantize_source(source, alone, planned, lambda *_: None)
        noise = Evaluator(source, planned.held_out).measure(result.layers).noise
        assert (row.sqnr_db, row.bytes, row.layers_quantized) == (noise.db, result.bytes, len(result.layers))
        assert row.compression_ratio == source.original_bytes / result.bytes
        assert [metric.name for metric in row.metrics] == ["agreement"]
    assert [(row.position, row.name) for row in report.rows] == [(i, f"r{i}") for i in range(4)]
    assert (report.calibration.samples, report.calibration.passes) == (30, 1)
    assert (report.evaluation.source, report.evaluation.samples) == ("held_out", 10)
    assert last(steps, "calibrating") == (1, 1)
    assert last(steps, "quantizing") == (4, 4)


def test_recipes_that_differ_in_checks_alone_are_done_once(
    sweep: Sweep, monkeypatch: pytest.MonkeyPatch, steps: list[Progress]
) -> None:
    report = sweep.compare(entries({}, {"validation": {"min_sqnr_db": 99}}, {"formats": ["pt2"]}, MSE))
    assert last(steps, "quantizing") == (2, 2)
    assert report.rows[1].recipe.validation.min_sqnr_db == 99
    assert report.rows[0].sqnr_db == report.rows[1].sqnr_db == report.rows[2].sqnr_db


def test_what_is_wrong_with_a_recipe_is_in_its_row(sweep: Sweep) -> None:
    report = sweep.compare(entries({"include": ["nowhere"]}, {}))
    wrong, right = report.rows
    assert wrong.error is not None
    assert (wrong.error.code, wrong.sqnr_db, wrong.bytes) == ("recipe_matches_nothing", None, None)
    assert "nowhere" in wrong.error.detail
    assert right.error is None
    assert report.pareto == [1]


def test_a_recipe_that_fails_on_its_way_is_a_row_too(sweep: Sweep, source: ProgramSource) -> None:
    """Every recipe meets the layer, and the ones that quantize its input are refused."""
    with torch.no_grad():
        source.module.get_submodule("features.0").bias.fill_(float("inf"))  # type: ignore[operator]
    report = sweep.compare(entries({}, {"activations": None}))
    assert [row.error and row.error.code for row in report.rows] == ["non_finite_activations", None]
    assert report.rows[1].sqnr_db is None


def drop(metric: str) -> dict[str, object]:
    return {"target": {"max_drop": {"metric": metric, "value": 0.0}}}


def test_a_target_is_searched_for_with_the_metric_of_the_rows(sweep: Sweep, source: ProgramSource) -> None:
    """And the samples that decide there calibrate nowhere."""
    report = sweep.compare(entries(drop("agreement"), {}, drop("top1")))
    agreement, plain, top1 = report.rows
    assert [metric.drop for metric in agreement.metrics] == [0.0]
    assert plain.error is None
    assert top1.error is not None
    assert (top1.error.code, "labels" in top1.error.detail) == ("dataset_does_not_fit", True)
    gated = plan(source, Recipe.model_validate(drop("agreement")), sweep.samples)
    assert gated.calibration is not None
    assert report.calibration.samples == gated.calibration.count < 30


def test_a_row_says_whether_its_target_is_met(sweep: Sweep) -> None:
    """An SQNR and a size that anything meets, one of each that nothing does, and a recipe without a target."""
    targets: list[Mapping[str, object]] = [
        {"min_sqnr_db": 5},
        {"max_bytes": 10**9},
        {"min_sqnr_db": 390},
        {"max_bytes": 1},
    ]
    table = sweep.compare(entries(*({"target": target, "algorithms": []} for target in targets), {}))
    assert [row.met for row in table.rows] == [True, True, False, False, None]


def test_without_an_evaluation_dataset_few_samples_measure(tmp_path: Path, source: ProgramSource) -> None:
    dataset = convolutional(400).save_dataset(tmp_path / "d.safetensors")
    samples = open_dataset(dataset, source.inputs, None)
    few = Sweep(source, samples, None, Clock(lambda _: None), tmp_path).compare(entries({}, MSE))
    whole = Sweep(source, samples, samples, Clock(lambda _: None), tmp_path).compare(entries({}, MSE))
    assert (few.evaluation.source, few.evaluation.samples) == ("held_out", 32)
    assert (whole.evaluation.source, whole.evaluation.samples) == ("evaluation_dataset", 400)


def test_rows_are_kept_for_another_attempt(sweep: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    recipes = entries({}, MSE)
    first = sweep.compare(recipes)
    monkeypatch.setattr(sweeping, "quantize_source", None)  # nothing is done again
    again = sweep.compare(recipes)
    assert [row.sqnr_db for row in again.rows] == [row.sqnr_db for row in first.rows]
    assert set(again.resumed) == {"calibrating", "quantizing"}
    assert first.resumed == ()


def folder(path: Path, *recipes: Mapping[str, object], **more: object) -> Path:
    convolutional().export(path / "model.pt2")
    convolutional().save_dataset(path / "dataset.safetensors")
    spec = {"model": "model.pt2", "dataset": "dataset.safetensors", "sweep": entries(*recipes), **more}
    (path / "job.json").write_text(JobSpec.model_validate(spec).model_dump_json())
    return path


def test_the_folder_of_a_sweep_gets_its_table_and_nothing_else(tmp_path: Path) -> None:
    assert run_job(folder(tmp_path, {}, MSE)) == EXIT_OK
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["sweep.json"]
    report = SweepReport.model_validate_json((tmp_path / "out" / "sweep.json").read_bytes())
    assert [row.recipe.formats for row in report.rows] == [("safetensors", "pt2")] * 2
    assert set(report.timings) == {"loading", "calibrating", "quantizing"}


@pytest.mark.parametrize(("change", "code"), [({"dataset": None}, "dataset_required"), ({}, "dataset_does_not_fit")])
def test_what_concerns_all_recipes_fails_the_sweep(tmp_path: Path, change: dict[str, object], code: str) -> None:
    folder(tmp_path, {}, MSE, **change)
    (tmp_path / "dataset.safetensors").write_bytes(b"\x02\0\0\0\0\0\0\0{}")
    assert run_job(tmp_path) == EXIT_FAILED
    assert Failure.model_validate(json.loads((tmp_path / "out" / "error.json").read_text())).code == code
