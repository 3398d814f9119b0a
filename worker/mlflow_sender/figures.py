"""What MLflow hears of a job: tags, parameters and metrics, within the limits of its servers of the last years."""

import json
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple

from app.jobs.mlflow_runs import Due, Facts
from app.jobs.status import JobState

MOST_PARAMS = 200
MOST_PARAM_CHARACTERS = 500
"""More is refused by servers before 2.8; recipe.json has all of it."""
MOST_TAG_CHARACTERS = 5000
MOST_NAME_CHARACTERS = 250
JOB_TAG = "zeropoint.job_id"

RunStatus = Literal["FINISHED", "FAILED", "KILLED"]

_STATUS: Mapping[JobState, RunStatus] = {JobState.SUCCEEDED: "FINISHED", JobState.FAILED: "FAILED"}
_NOT_IN_NAMES = re.compile(r"[^\w.\- :/]")
_SUMMED_UP = (
    "sqnr_db",
    "worst_output_db",
    "worst_agreement",
    "cosine",
    "weights_in_float",
    "macs_in_float",
    "original_bytes",
    "quantized_bytes",
    "compression_ratio",
    "dead_bytes",
    "layers_quantized",
    "layers_skipped",
)
"""Of a report's summary."""
_OF_A_ROW = ("sqnr_db", "compression_ratio", "layers_quantized", "latency_ms", "float_latency_ms")
"""Of a row of a sweep's table."""


class Metric(NamedTuple):
    """A number; `step` is the position of a recipe in a sweep, else 0."""

    name: str
    value: float
    step: int = 0


def status_of(state: JobState) -> RunStatus:
    """Return the status with which the run of a job ends. One that was deleted unseen was cut off, for MLflow."""
    return _STATUS.get(state, "KILLED")


def run_name(due: Due) -> str:
    """Return the name of a run: the model's, and the end of the job's id."""
    model = due.facts.model_name if due.facts else None
    return _text(f"{model} {due.job_id[-6:]}" if model else due.job_id, MOST_NAME_CHARACTERS)


def opening_tags(due: Due, facts: Facts) -> dict[str, str]:
    """Return the tags that are known before the work."""
    values = {
        JOB_TAG: due.job_id,
        "zeropoint.project": due.project,
        "zeropoint.owner": facts.owner,
        "zeropoint.tags": ", ".join(facts.tags),
        "zeropoint.kind": facts.kind,
        "zeropoint.device": facts.device,
        "zeropoint.model": facts.model_id,
        "zeropoint.model_name": facts.model_name,
        "zeropoint.dataset": facts.dataset_id,
        "zeropoint.evaluation_dataset": facts.evaluation_dataset_id,
        "mlflow.user": facts.owner,
        "mlflow.source.name": "zeropoint",
        "mlflow.source.type": "JOB",
    }
    return _tags(values)


def closing_tags(due: Due, facts: Facts) -> dict[str, str]:
    """Return the tags that the end brings; the description of a run that failed says why, and what to do."""
    error = facts.error or {}
    values = {
        "zeropoint.state": due.state,
        "zeropoint.verdict": facts.verdict,
        "zeropoint.code": error.get("code"),
        "zeropoint.attempts": str(facts.attempts),
        "mlflow.note.content": " ".join(str(error[part]) for part in ("title", "detail", "remedy") if error.get(part)),
    }
    return _tags(values)


def recipe_of(facts: Facts) -> Mapping[str, Any]:
    """Return what was asked for: the recipe, or a sweep's recipes."""
    return facts.sweep or facts.recipe


def params(facts: Facts) -> dict[str, str]:
    """Return what was asked for as parameters, such as weights.dtype; of very many, the first."""
    found: dict[str, str] = {}
    for name, value in _flat(recipe_of(facts), ""):
        if len(found) == MOST_PARAMS:
            break
        found.setdefault(_name(name), _text(value, MOST_PARAM_CHARACTERS))
    return found


def metrics(facts: Facts, result: Mapping[str, Any]) -> list[Metric]:
    """Return the numbers of a report or of a sweep's table, and the seconds of each phase."""
    found = [Metric(f"seconds/{phase}", seconds) for phase, seconds in facts.seconds.items()]
    summary = result.get("summary", {})
    found += [Metric(name, summary.get(name)) for name in _SUMMED_UP]
    found += _of_tasks(result)
    found += [Metric("peak_memory_bytes", result.get("peak_memory_bytes", math.nan))]
    found += [Metric("calibration_samples", result.get("calibration", {}).get("samples"))]
    for row in result.get("rows", ()):
        step = row["position"]
        found += [Metric(name, row.get(name), step) for name in _OF_A_ROW]
        found += [Metric("quantized_bytes", row.get("bytes"), step), *_of_tasks(row, step)]
    return [one for one in found if _is_number(one.value)]


def _of_tasks(result: Mapping[str, Any], step: int = 0) -> Iterator[Metric]:
    for metric in result.get("metrics", ()):
        for part, key in (("float", "float_value"), ("quantized", "value"), ("drop", "drop")):
            yield Metric(_name(f"{metric['name']}/{part}"), metric[key], step)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _flat(value: Any, name: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict) and value:
        for key, below in value.items():
            yield from _flat(below, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list) and any(isinstance(one, dict) for one in value):
        for number, below in enumerate(value):
            yield from _flat(below, f"{name}.{number}")
    else:
        yield name, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _tags(values: Mapping[str, str | None]) -> dict[str, str]:
    return {name: _text(value, MOST_TAG_CHARACTERS) for name, value in values.items() if value}


def _name(name: str) -> str:
    """Return a name that MLflow takes: it is a path too, which may not lead elsewhere."""
    parts = [part for part in _NOT_IN_NAMES.sub("_", name)[:MOST_NAME_CHARACTERS].split("/") if part.strip(".")]
    return "/".join(parts) or "_"


def _text(value: str, most: int) -> str:
    """Return text that every database takes, cut where it is too long."""
    clean = value.replace("\0", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "replace").decode()
    return clean if len(clean) <= most else clean[: most - 1] + "…"
