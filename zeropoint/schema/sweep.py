"""The table of a sweep: several recipes on one model and one calibration, side by side. Torch-free.

A row is beaten by another that is at least as good in all that was measured (SQNR, bytes, latency where it was asked
for) and better in one; the rows that none beats are the Pareto front.
"""

import math
from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from zeropoint.schema.frozen import Frozen
from zeropoint.schema.recipe import Recipe
from zeropoint.schema.report import CalibrationReport, EvaluationReport, MetricReport, Part, ResumedPhase

FEWEST_RECIPES, MOST_RECIPES = 2, 32


class SweepEntry(Frozen):
    """A recipe of a sweep, and what the user calls it."""

    name: Annotated[str, Field(min_length=1, max_length=64)]
    preset: str | None = None
    recipe: Recipe


class SweepError(Part):
    """Why a recipe gave no result; the others went on."""

    code: str
    title: str
    detail: str
    remedy: str


class SweepRow(Part):
    """What one recipe comes to. All but what was asked for is null where `error` says why."""

    position: int
    """In the request, from 0."""
    name: str
    preset: str | None
    recipe: Recipe
    sqnr_db: float | None = None
    exact: bool = False
    metrics: tuple[MetricReport, ...] = ()
    bytes: int | None = None
    """Of stored tensors, as `summary.quantized_bytes` of a job's report."""
    compression_ratio: float | None = None
    layers_quantized: int | None = None
    latency_ms: float | None = None
    float_latency_ms: float | None = None
    """The float program's, measured in turns with this row's."""
    seconds: float | None = None
    """What the row took; near 0 where another row's settings are the same."""
    error: SweepError | None = None


class SweepReport(Part):
    """All rows, in the order of the request."""

    rows: list[SweepRow]
    pareto: list[int]
    """Positions of the rows that no other row beats."""
    calibration: CalibrationReport
    evaluation: EvaluationReport
    timings: dict[str, float]
    peak_memory_bytes: int
    versions: dict[str, str]
    resumed: tuple[ResumedPhase, ...] = ()
    """Phases that went on from a checkpoint of an earlier attempt."""


def pareto(rows: Sequence[SweepRow]) -> list[int]:
    """Positions of the rows that no other row beats; rows without a result have none."""
    costs = {row.position: _costs(row) for row in rows if row.error is None}
    return [place for place, own in costs.items() if not any(_beats(other, own) for other in costs.values())]


def _costs(row: SweepRow) -> tuple[float, ...]:
    """Less is better in each."""
    accuracy = math.inf if row.exact else -math.inf if row.sqnr_db is None else row.sqnr_db
    return (-accuracy, row.bytes or 0, row.latency_ms or 0.0)


def _beats(left: tuple[float, ...], right: tuple[float, ...]) -> bool:
    return left != right and all(one <= other for one, other in zip(left, right, strict=True))
