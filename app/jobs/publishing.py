"""Publishing: gives committed events their positions, one order for all that happens in this database.

A number that a transaction takes when it writes an event would not do: one that commits later, with a lower number,
would be skipped by whoever has read further. So events are written without a position, and this gives positions to
those that are committed, in one transaction at a time (docs/decisions/0051-positions-of-events.md).
"""

from collections.abc import Callable, Mapping, Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.database import begin_writing, try_lock
from app.jobs.models import Job, JobEvent, LastPosition

EventRow = JobEvent
JobRow = Job
"""For annotations of those who may not name the tables."""

LOCK = "zeropoint.publishing"
BATCH = 500
_NAME = "events"

Also = Callable[[Session, Sequence[JobEvent]], None]
"""What else is written in the transaction that publishes events."""


def publish(session: Session, also: Also = lambda *_: None) -> int:
    """Publish the events that wait for it, unless another process does so now; return how many these were."""
    waiting = session.scalar(select(JobEvent.seq).where(JobEvent.position.is_(None)).limit(1))
    session.rollback()
    if waiting is None:
        return 0
    published = 0
    while batch := _publish_some(session, also):
        published += batch
        if batch < BATCH:
            break
    return published


def _publish_some(session: Session, also: Also) -> int:
    begin_writing(session)
    if not try_lock(session, LOCK):
        session.rollback()
        return 0
    # What the last holder of the lock did is committed, so it is seen from here on.
    last = session.get(LastPosition, _NAME, with_for_update=True, populate_existing=True)
    if last is None:
        last = LastPosition(name=_NAME, position=0)
        session.add(last)
    waiting = select(JobEvent).where(JobEvent.position.is_(None))
    events = session.scalars(waiting.order_by(JobEvent.at, JobEvent.job_id, JobEvent.seq).limit(BATCH)).all()
    for event in events:
        last.position += 1
        event.position = last.position
    also(session, events)
    session.commit()
    return len(events)


def jobs_of(session: Session, events: Sequence[JobEvent]) -> Mapping[str, Job]:
    """Return the jobs that events are about, by id."""
    ids = {event.job_id for event in events}
    return {job.id: job for job in session.scalars(select(Job).where(Job.id.in_(ids)))}


def last_position(session: Session) -> int:
    """Return the position of the event that was published last; 0 before the first."""
    return session.scalar(select(LastPosition.position).where(LastPosition.name == _NAME)) or 0


def published(session: Session, after: int, limit: int, until: int | None = None) -> Sequence[JobEvent]:
    """Return events behind a position, up to another one, in their order: of the caller's project, if one calls."""
    query = select(JobEvent).where(JobEvent.position > after).order_by(JobEvent.position).limit(limit)
    return session.scalars(query if until is None else query.where(JobEvent.position <= until)).all()
