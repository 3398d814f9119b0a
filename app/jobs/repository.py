"""All SQL about jobs. Nothing here commits."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import or_, select, update
from sqlalchemy.orm import Session

from app.database import now
from app.jobs.models import Artifact, Job, JobEvent, JobTag, Worker
from app.jobs.status import LIVE, JobState, sources_of


@dataclass(frozen=True)
class JobFilter:
    """Which jobs to list; None is any."""

    state: JobState | None = None
    tag: str | None = None
    model_id: str | None = None


def find(session: Session, job_id: str) -> Job | None:
    """Return one job."""
    return session.get(Job, job_id)


def lock(session: Session, job_id: str) -> Job | None:
    """Return one job as it is now, and keep others from changing it until the transaction ends."""
    return session.get(Job, job_id, with_for_update=True, populate_existing=True)


def find_by_key(session: Session, idempotency_key: str) -> Job | None:
    """Return the job that was submitted with this key."""
    return session.scalar(select(Job).where(Job.idempotency_key == idempotency_key))


def page(session: Session, wanted: JobFilter, before: str | None, limit: int) -> Sequence[Job]:
    """Return jobs, newest first, older than the id `before`."""
    query = select(Job).order_by(Job.id.desc()).limit(limit)
    if wanted.state is not None:
        query = query.where(Job.state == wanted.state)
    if wanted.model_id is not None:
        query = query.where(Job.model_id == wanted.model_id)
    if wanted.tag is not None:
        query = query.join(JobTag).where(JobTag.tag == wanted.tag)
    if before is not None:
        query = query.where(Job.id < before)
    return session.scalars(query).all()


def claim(session: Session, job_id: str, worker: str) -> Job | None:
    """Give a queued job to a worker under a new token; None when it is not queued."""
    changes = {
        "state": JobState.RUNNING,
        "token": Job.token + 1,
        "attempts": Job.attempts + 1,
        "worker": worker,
        "started_at": now(),
    }
    query = update(Job).where(Job.id == job_id, Job.state == JobState.QUEUED).values(changes).returning(Job)
    return session.scalar(query, execution_options={"populate_existing": True})


def finish(session: Session, job_id: str, token: int, state: JobState, **results: Any) -> bool:
    """End a job, if it may end so and the token is still its own. Returns whether it did."""
    changes = {"state": state, "phase": None, "eta_seconds": None, "finished_at": now(), **results}
    allowed = [source for source in sources_of(state) if source != JobState.QUEUED]
    query = update(Job).where(Job.id == job_id, Job.token == token, Job.state.in_(allowed)).values(changes)
    return session.scalar(query.returning(Job.id)) is not None


def add_event(session: Session, job_id: str, kind: str, data: dict[str, Any]) -> None:
    """Append a line to a job's history under the next number."""
    # Counting in the job's row makes two writers wait for each other instead of taking one number twice.
    counted = update(Job).where(Job.id == job_id).values(events=Job.events + 1).returning(Job.events)
    number = session.scalar(counted)
    session.add(JobEvent(job_id=job_id, seq=number, at=now(), kind=kind, data=data))


def events(session: Session, job_id: str, after: int, limit: int) -> Sequence[JobEvent]:
    """Return a job's history behind a number, oldest first."""
    query = select(JobEvent).where(JobEvent.job_id == job_id, JobEvent.seq > after)
    return session.scalars(query.order_by(JobEvent.seq).limit(limit)).all()


def artifacts(session: Session, job_id: str) -> Sequence[Artifact]:
    """Return what a job produced, by name."""
    return session.scalars(select(Artifact).where(Artifact.job_id == job_id).order_by(Artifact.name)).all()


def find_artifact(session: Session, job_id: str, name: str) -> Artifact | None:
    """Return one artifact of a job."""
    return session.scalar(select(Artifact).where(Artifact.job_id == job_id, Artifact.name == name))


def live_job_with(session: Session, upload_id: str) -> str | None:
    """Return the id of a job that has not ended and needs this model or dataset."""
    needs = or_(Job.model_id == upload_id, Job.dataset_id == upload_id, Job.evaluation_dataset_id == upload_id)
    return session.scalar(select(Job.id).where(Job.state.in_(LIVE), needs).limit(1))


def queued(session: Session) -> list[tuple[str, str]]:
    """Return id and device of every queued job, oldest first."""
    query = select(Job.id, Job.device).where(Job.state == JobState.QUEUED).order_by(Job.id)
    return [(row.id, row.device) for row in session.execute(query)]


def find_worker(session: Session, name: str) -> Worker | None:
    """Return a worker that announced itself."""
    return session.get(Worker, name)


def devices_seen(session: Session, since: datetime) -> set[str]:
    """Return the devices of workers that announced themselves since then."""
    return set(session.scalars(select(Worker.device).where(Worker.seen_at >= since)))


def sandboxes_seen(session: Session, since: datetime) -> Sequence[dict[str, bool]]:
    """Return what workers that announced themselves since then said of their sandboxes."""
    return session.scalars(select(Worker.sandbox).where(Worker.seen_at >= since)).all()
