"""What MLflow is told of a job, within its limits, whatever names and numbers there are."""

import math
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlflow.utils import validation

from app.jobs.mlflow_runs import Due, Facts
from app.jobs.status import TERMINAL, JobState
from worker.mlflow_sender import figures
from zeropoint.schema.recipe import Override, Recipe
from zeropoint.schema.report import Summary
from zeropoint.schema.sweep import SweepEntry, SweepRow

AT = datetime(2026, 11, 30, tzinfo=UTC)
FACTS = Facts(
    kind="quantize",
    owner="someone",
    tags=["nightly", "a b"],
    device="cpu",
    model_id="mdl_1",
    model_name="encoder",
    dataset_id="dts_1",
    evaluation_dataset_id=None,
    attempts=1,
    verdict="passed",
    error=None,
    started_at=AT,
    finished_at=AT,
    recipe=Recipe().model_dump(mode="json"),
    sweep=None,
    seconds={"loading": 0.5},
    result_name="report.json",
    result_sha256=None,
)
SUMMARY: dict[str, Any] = {
    **{"sqnr_db": 31.5, "exact": False, "original_bytes": 400, "quantized_bytes": 100, "compression_ratio": 4.0},
    **{"dead_bytes": 0, "layers_quantized": 3, "layers_skipped": 1},
}
TEXT = st.text(st.characters(codec=None), max_size=40)


def due(facts: Facts | None = FACTS, state: JobState = JobState.SUCCEEDED) -> Due:
    return Due("job_0123456789", "default", 1, False, state, facts)


@pytest.mark.parametrize("state", sorted(TERMINAL))
def test_each_final_state_has_its_status(state: JobState) -> None:
    expected = {JobState.SUCCEEDED: "FINISHED", JobState.FAILED: "FAILED", JobState.CANCELLED: "KILLED"}
    assert figures.status_of(state) == expected[state]


def test_the_recipe_becomes_parameters_under_its_own_keys() -> None:
    recipe = Recipe(exclude=("head", "a.*"), overrides=(Override(names=("größe",), weights=None),))
    found = figures.params(replace(FACTS, recipe=recipe.model_dump(mode="json")))
    assert (found["weights.dtype"], found["exclude"], found["seed"]) == ("qint8", '["head", "a.*"]', "0")
    assert found["overrides.0.names"] == '["größe"]'


def test_a_sweeps_recipes_become_parameters_with_their_positions() -> None:
    entries = [SweepEntry(name=name, recipe=Recipe()).model_dump(mode="json") for name in ("a", "b")]
    found = figures.params(replace(FACTS, sweep={"recipes": entries, "latency": True}))
    assert (found["recipes.1.name"], found["recipes.1.recipe.weights.dtype"]) == ("b", "qint8")


def test_very_many_parameters_are_cut_and_long_ones_too() -> None:
    many = {"overrides": [{"names": ["x" * 1000]} for _ in range(1000)]}
    found = figures.params(replace(FACTS, recipe=many))
    assert len(found) == figures.MOST_PARAMS
    assert {len(value) for value in found.values()} == {figures.MOST_PARAM_CHARACTERS}


def test_a_report_becomes_metrics() -> None:
    metric = {"name": "accuracy", "float_value": 0.9, "value": 0.875, "drop": 0.025}
    report = {"summary": SUMMARY, "metrics": [metric], "calibration": {"samples": 32}, "peak_memory_bytes": 5}
    found = {one.name: one.value for one in figures.metrics(FACTS, report)}
    assert found == {
        **{name: value for name, value in SUMMARY.items() if name != "exact"},
        **{"accuracy/float": 0.9, "accuracy/quantized": 0.875, "accuracy/drop": 0.025},
        **{"calibration_samples": 32, "peak_memory_bytes": 5, "seconds/loading": 0.5},
    }


@pytest.mark.parametrize("value", [None, math.nan, math.inf, "3", True])
def test_what_is_no_finite_number_is_no_metric(value: object) -> None:
    found = figures.metrics(replace(FACTS, seconds={}), {"summary": {"sqnr_db": value}})
    assert found == []


def test_each_recipe_of_a_sweep_is_a_step() -> None:
    row = SweepRow(position=1, name="b", preset=None, recipe=Recipe(), sqnr_db=20.0, bytes=7).model_dump(mode="json")
    failed = row | {"position": 0, "sqnr_db": None, "bytes": None}
    found = figures.metrics(replace(FACTS, seconds={}), {"rows": [failed, row]})
    assert found == [figures.Metric("sqnr_db", 20.0, 1), figures.Metric("quantized_bytes", 7, 1)]


def test_every_number_of_a_summary_is_told() -> None:
    """Whoever adds one decides here whether MLflow hears of it."""
    left_out = {"exact", "in_float"}
    assert set(Summary.model_fields) - left_out == set(figures._SUMMED_UP)
    assert set(figures._OF_A_ROW) <= set(SweepRow.model_fields)


def test_the_end_says_why_a_job_failed_and_what_to_do() -> None:
    error = {"code": "out_of_memory", "title": "T.", "detail": "D.", "remedy": "R.", "phase": None}
    found = figures.closing_tags(due(state=JobState.FAILED), replace(FACTS, error=error, verdict=None))
    assert (found["zeropoint.code"], found["mlflow.note.content"]) == ("out_of_memory", "T. D. R.")
    assert "zeropoint.verdict" not in found


@given(TEXT, TEXT, st.lists(TEXT, max_size=5), st.dictionaries(TEXT, TEXT, max_size=5))
def test_whatever_the_names_mlflow_takes_them(owner: str, model: str, tags: list[str], recipe: dict[str, str]) -> None:
    facts = replace(FACTS, owner=owner, model_name=model, tags=tags, recipe=recipe)
    for name, value in (figures.opening_tags(due(), facts) | figures.closing_tags(due(), facts)).items():
        validation._validate_tag(name, value)  # type: ignore[no-untyped-call]
        assert "\0" not in value.encode().decode()
    for name, value in figures.params(facts).items():
        validation._validate_param(name, value)  # type: ignore[no-untyped-call]
        assert len(name) <= figures.MOST_NAME_CHARACTERS
    assert figures.run_name(due(facts)).encode()


def test_text_is_cut_where_mlflow_takes_no_more() -> None:
    facts = replace(FACTS, tags=["x" * 64] * 200, model_name="m" * 255)
    found = figures.opening_tags(due(), facts)
    assert len(found["zeropoint.tags"]) == figures.MOST_TAG_CHARACTERS
    assert len(figures.run_name(due(facts))) == figures.MOST_NAME_CHARACTERS
