"""What lists of jobs and sweeps may be filtered by."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Annotated

from fastapi import Depends, Query
from pydantic import AfterValidator, AwareDatetime

from app.api.paging import WordQuery
from app.jobs.lists import Interval, JobFilter
from app.jobs.status import JobState
from zeropoint.schema.report import Verdict

FIRST, LAST = datetime(1970, 1, 1, tzinfo=UTC), datetime(2500, 1, 1, tzinfo=UTC)
"""Of the times that are compared, so that none is out of range in any zone."""


def _in_range(at: datetime | None) -> datetime | None:
    return None if at is None else min(max(at, FIRST), LAST)


TimeQuery = Annotated[AwareDatetime | None, AfterValidator(_in_range), Query()]
DecibelQuery = Annotated[float | None, Query(allow_inf_nan=False)]


def times(
    created_after: TimeQuery = None,
    created_before: TimeQuery = None,
    finished_after: TimeQuery = None,
    finished_before: TimeQuery = None,
) -> JobFilter:
    """Return the filter by times that the query of a list asks for."""
    return JobFilter(
        created=Interval(created_after, created_before), finished=Interval(finished_after, finished_before)
    )


def run_filter(
    chosen: Annotated[JobFilter, Depends(times)],
    *,
    state: JobState | None = None,
    tag: WordQuery = None,
    model: WordQuery = None,
    owner: WordQuery = None,
    code: WordQuery = None,
) -> JobFilter:
    """Return the filter that the query of a list asks for."""
    return replace(chosen, state=state, tag=tag, model_id=model, owner=owner, code=code)


RunFilterDep = Annotated[JobFilter, Depends(run_filter)]


def job_filter(
    chosen: RunFilterDep,
    verdict: Verdict | None = None,
    min_sqnr_db: DecibelQuery = None,
    max_sqnr_db: DecibelQuery = None,
) -> JobFilter:
    """Return the filter that the query of a list of jobs asks for: sweeps have no verdict and no SQNR."""
    return replace(chosen, verdict=verdict, sqnr_db=(min_sqnr_db, max_sqnr_db))


JobFilterDep = Annotated[JobFilter, Depends(job_filter)]
