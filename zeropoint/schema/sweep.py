"""A sweep's table: several recipes on one model and one calibration, side by side. Torch-free.

A row is dominated by another that is at least as good in everything measured (SQNR, bytes, latency if requested) and
better in one; the rows that none dominates form the Pareto front.
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
    """A recipe of a sweep, and the user's name for it."""

    name: Annotated[str, Field(min_length=1, max_length=64)]
    preset: str | None = None
    recipe: Recipe


class SweepError(Part):
    """Why a recipe gave no result; the others still ran."""

    code: str
    title: str
    detail: str
    remedy: str


class SweepRow(Part):
    """The result of one recipe. If `error` is set, everything except the request is null."""

    position: int
    """Position in the request, from 0."""
    name: str
    preset: str | None
    recipe: Recipe
    sqnr_db: float | None = None
    exact: bool = False
    met: bool | None = None
    """Whether the recipe's target is met on the samples of this table; null without a target."""
    metrics: tuple[MetricReport, ...] = ()
    bytes: int | None = None
    """Bytes of stored tensors, as `summary.quantized_bytes` of a job's report."""
    compression_ratio: float | None = None
    layers_quantized: int | None = None
    latency_ms: float | None = None
    float_latency_ms: float | None = None
    """The float program's latency, measured alternately with this row's."""
    seconds: float | None = None
    """Time that the row took; near 0 where another row has the same settings."""
    error: SweepError | None = None


class SweepReport(Part):
    """All rows, in the order of the request."""

    rows: list[SweepRow]
    pareto: list[int]
    """Positions of the rows that no other row dominates."""
    calibration: CalibrationReport
    evaluation: EvaluationReport
    timings: dict[str, float]
    peak_memory_bytes: int
    versions: dict[str, str]
    resumed: tuple[ResumedPhase, ...] = ()
    """Phases resumed from a checkpoint of an earlier attempt."""


def pareto(rows: Sequence[SweepRow]) -> list[int]:
    """Return the positions of the rows that no other row dominates; rows without a result are left out."""
    costs = {row.position: _costs(row) for row in rows if row.error is None}
    return [place for place, cost in costs.items() if not any(_dominates(other, cost) for other in costs.values())]


def _costs(row: SweepRow) -> tuple[float, ...]:
    """Return what to compare: less is better in each entry."""
    accuracy = math.inf if row.exact else -math.inf if row.sqnr_db is None else row.sqnr_db
    return (-accuracy, row.bytes or 0, row.latency_ms or 0.0)


def _dominates(left: tuple[float, ...], right: tuple[float, ...]) -> bool:
    return left != right and all(a <= b for a, b in zip(left, right, strict=True))
