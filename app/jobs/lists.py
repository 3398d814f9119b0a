"""Lists of jobs: what they are filtered by, and the SQL that finds a page of one."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, select
from sqlalchemy.orm import Session

from app.database import first_id
from app.jobs.kinds import ID_PREFIXES, JobKind
from app.jobs.models import Job, JobTag
from app.jobs.status import JobState


class Interval(NamedTuple):
    """From `first` on, and before `end`; None is no bound."""

    first: datetime | None = None
    end: datetime | None = None


ANY = Interval()


@dataclass(frozen=True)
class JobFilter:
    """Which jobs to list; None is any."""

    state: JobState | None = None
    tag: str | None = None
    model_id: str | None = None
    owner: str | None = None
    code: str | None = None
    verdict: str | None = None
    created: Interval = ANY
    finished: Interval = ANY
    sqnr_db: tuple[float | None, float | None] = (None, None)
    """The least and the most; an exact result has more than any number."""


def page_of(session: Session, kind: str, chosen: JobFilter, before: str | None, limit: int) -> Sequence[Job]:
    """Return the jobs of a kind, newest first, older than the id `before`."""
    # Ids are found in the order of an index that holds all that is asked for; rows are read only to be returned.
    identity = JobTag.job_id if chosen == JobFilter(tag=chosen.tag) and chosen.tag is not None else Job.id
    found = select(identity).select_from(Job).where(Job.kind == kind).order_by(identity.desc()).limit(limit)
    found = found.where(*_chosen(chosen, ID_PREFIXES[JobKind(kind)]))
    if chosen.tag is not None:
        found = found.join(JobTag).where(JobTag.tag == chosen.tag)
    if before is not None:
        found = found.where(identity < before)
    ids = found.subquery()
    return session.scalars(select(Job).join(ids, ids.c[0] == Job.id).order_by(ids.c[0].desc())).all()


def _chosen(chosen: JobFilter, id_prefix: str) -> Iterator[ColumnElement[bool]]:
    equal = {
        Job.state: chosen.state,
        Job.model_id: chosen.model_id,
        Job.owner: chosen.owner,
        Job.error_code: chosen.code,
        Job.verdict: chosen.verdict,
    }
    yield from (column == value for column, value in equal.items() if value is not None)
    # An id begins with the time at which it was made, and the index is in their order.
    first, end = (at and first_id(id_prefix, at) for at in chosen.created)
    yield from _between(Job.id, first, end)
    yield from _between(Job.finished_at, *chosen.finished)
    least, most = chosen.sqnr_db
    if least is not None:
        yield Job.sqnr_db >= least
    if most is not None:
        yield Job.sqnr_db <= most


def _between(column: Any, first: Any, end: Any) -> Iterator[ColumnElement[bool]]:
    if first is not None:
        yield column >= first
    if end is not None:
        yield column < end
