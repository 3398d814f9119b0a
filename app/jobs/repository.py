"""All SQL about jobs. Nothing here commits."""

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Update, delete, func, or_, select, update
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.orm import Session, undefer_group

from app.catalog.models import Dataset, Model
from app.database import clock
from app.jobs import mlflow_runs, tallies
from app.jobs.models import WORK, Artifact, Attempt, Checkpoint, Job, JobEvent, JobTag, Turn, Worker
from app.jobs.status import HELD, LIVE, TERMINAL, JobState, Move


def find(session: Session, job_id: str) -> Job | None:
    """Return one job."""
    return session.get(Job, job_id)


def find_whole(session: Session, job_id: str) -> Job | None:
    """Return one job with its work, in one query: another may delete it before the next."""
    return session.get(Job, job_id, options=[undefer_group(WORK)], populate_existing=True)


def find_many(session: Session, job_ids: Collection[str]) -> Sequence[Job]:
    """Return those of some jobs that there are, with their work."""
    return session.scalars(select(Job).where(Job.id.in_(job_ids)).options(undefer_group(WORK))).all()


def in_states(session: Session, job_ids: Collection[str], states: Collection[JobState]) -> set[str]:
    """Return those of some jobs that are in one of these states."""
    return set(session.scalars(select(Job.id).where(Job.id.in_(job_ids), Job.state.in_(states))))


def lock(session: Session, job_id: str) -> Job | None:
    """Return one job as it is now, and keep others from changing it until the transaction ends."""
    return session.get(Job, job_id, with_for_update=True, populate_existing=True)


def find_by_key(session: Session, idempotency_key: str) -> Job | None:
    """Return the job that was submitted with the key of this digest."""
    query = select(Job).where(Job.idempotency_key == idempotency_key)
    return session.scalar(query.options(undefer_group(WORK)))


def next_queued(session: Session, device: str, at: datetime) -> str | None:
    """Return the id of the job that runs next on a device, locked.

    The project with the fewest running jobs comes first, then the one served longest ago; among the jobs of that
    project the highest priority, then the oldest.
    """
    running = select(Job.project, func.count().label("running")).where(Job.state.in_(HELD))
    held = running.group_by(Job.project).subquery()
    query = (
        select(Job.id)
        .outerjoin(held, held.c.project == Job.project)
        .outerjoin(Turn, Turn.project == Job.project)
        .where(Job.state == JobState.QUEUED, Job.device == device, _is_due(at))
        .order_by(func.coalesce(held.c.running, 0), Turn.served_at.asc().nulls_first(), Job.priority.desc())
        .order_by(Job.created_at, Job.id)
        .limit(1)
        .with_for_update(of=Job, skip_locked=True)
    )
    return session.scalar(query)


def note_served(session: Session, project: str, at: datetime) -> None:
    """Record when a job of a project was last claimed."""
    insert: Any = sqlite_insert if session.get_bind().dialect.name == "sqlite" else postgresql_insert
    statement = insert(Turn).values(project=project, served_at=at)
    session.execute(statement.on_conflict_do_update(index_elements=[Turn.project], set_={"served_at": at}))


def replace_tags(session: Session, job_id: str, tags: Collection[str]) -> None:
    """Give a job these tags in place of those that it has."""
    session.execute(delete(JobTag).where(JobTag.job_id == job_id))
    session.add_all(JobTag(job_id=job_id, tag=tag) for tag in sorted(set(tags)))


def change(session: Session, job_id: str, **changes: Any) -> None:
    """Set columns that belong to no move."""
    session.execute(update(Job).where(Job.id == job_id).values(changes))


def delete_one(session: Session, job_id: str) -> None:
    """Delete a job; its other rows go with it."""
    query = delete(Job).where(Job.id == job_id)
    session.execute(query, execution_options={"synchronize_session": False})


def claim(session: Session, job_id: str, by: Move, changes: dict[str, Any]) -> Job | None:
    """Make a move under a new token, if the job's state allows it; return the job, or None."""
    query = update(Job).where(Job.id == job_id, Job.state.in_(by.sources))
    job = _moved(session, query.values({"state": by.target, "token": Job.token + 1, **changes}))
    if job is not None:
        mlflow_runs.note(session, job)
    return job


def move(session: Session, job_id: str, by: Move, token: int, changes: dict[str, Any]) -> Job | None:
    """Make a move, if the job's state allows it and the token is still the job's; return the job, or None.

    Every end of a job comes by here, is counted, and noted for MLflow.
    """
    if error := changes.get("error"):
        changes = {**changes, "error_code": error["code"]}
    query = update(Job).where(Job.id == job_id, Job.state.in_(by.sources), Job.token == token)
    job = _moved(session, query.values({"state": by.target, **changes}))
    if job is not None and by.target in TERMINAL:
        tallies.count_end(session, by.target, (job.error or {}).get("code"), job.device)
        mlflow_runs.note(session, job)
    return job


def renew(session: Session, job_id: str, token: int, until: datetime) -> JobState | None:
    """Renew a lease and return the job's state; None when the token is no longer the job's."""
    query = update(Job).where(Job.id == job_id, Job.token == token, Job.state.in_(HELD)).values(lease_until=until)
    state = session.scalar(query.returning(Job.state))
    return None if state is None else JobState(state)


def lapsed(session: Session, at: datetime) -> Sequence[Job]:
    """Return the jobs whose lease ran out, locked."""
    query = select(Job).where(Job.state.in_(HELD), Job.lease_until < at).order_by(Job.id)
    return session.scalars(query.with_for_update(skip_locked=True), execution_options={"populate_existing": True}).all()


def waited_too_long(session: Session, at: datetime) -> Sequence[Job]:
    """Return the jobs that waited longer than they may, locked."""
    query = select(Job).where(Job.state == JobState.QUEUED, Job.pending_until < at).order_by(Job.id)
    return session.scalars(query.with_for_update(skip_locked=True), execution_options={"populate_existing": True}).all()


def reroute(session: Session, devices: Collection[str], device: str) -> None:
    """Give queued jobs that run anywhere to `device`, unless they already wait for one of `devices`."""
    lost = (Job.state == JobState.QUEUED, Job.wanted_device == "auto", Job.device.not_in(devices))
    session.execute(update(Job).where(*lost).values(device=device))


def count_due(session: Session, at: datetime) -> dict[str, int]:
    """Return how many queued jobs each device could claim now."""
    query = select(Job.device, func.count()).where(Job.state == JobState.QUEUED, _is_due(at)).group_by(Job.device)
    return {row[0]: row[1] for row in session.execute(query)}


def count_by_state(session: Session) -> dict[str, int]:
    """Return how many jobs there are in each state that has any."""
    return {row[0]: row[1] for row in session.execute(select(Job.state, func.count()).group_by(Job.state))}


def queues(session: Session) -> Sequence[tuple[str, int, datetime]]:
    """Return how many jobs wait for each device that any waits for, and since when the first of them does."""
    since = func.min(func.coalesce(Job.queued_at, Job.created_at))
    query = select(Job.device, func.count(), since).where(Job.state == JobState.QUEUED).group_by(Job.device)
    return [(row[0], row[1], row[2]) for row in session.execute(query)]


def running(session: Session) -> dict[str, int]:
    """Return how many jobs a worker has, by device."""
    query = select(Job.device, func.count()).where(Job.state.in_(HELD)).group_by(Job.device)
    return {row[0]: row[1] for row in session.execute(query)}


def stored_bytes(session: Session) -> dict[str, int]:
    """Return the sum of the bytes that rows name, by what they are."""
    sizes = {
        "models": Model.stored_bytes,
        "datasets": Dataset.stored_bytes,
        "artifacts": Artifact.bytes,
        "checkpoints": Checkpoint.bytes,
    }
    return {what: int(session.scalar(select(func.sum(column))) or 0) for what, column in sizes.items()}


def workers_seen(session: Session) -> Sequence[tuple[str, str, datetime]]:
    """Return device and version of each worker, and when it was last seen."""
    query = select(Worker.device, Worker.version, Worker.seen_at)
    return [(row[0], row[1], row[2]) for row in session.execute(query)]


def end_attempt(session: Session, job_id: str, token: int, **changes: Any) -> None:
    """Record how an attempt ended."""
    query = update(Attempt).where(Attempt.job_id == job_id, Attempt.token == token)
    session.execute(query.values(changes))


def attempts(session: Session, job_id: str, after: int = 0, limit: int = 1000) -> Sequence[Attempt]:
    """Return a job's attempts behind a token, in their order."""
    query = select(Attempt).where(Attempt.job_id == job_id, Attempt.token > after)
    return session.scalars(query.order_by(Attempt.token).limit(limit)).all()


def checkpoints(session: Session, key: str) -> Sequence[Checkpoint]:
    """Return what attempts with this key left, by name."""
    return session.scalars(select(Checkpoint).where(Checkpoint.key == key).order_by(Checkpoint.name)).all()


def forget_checkpoints(session: Session, older_than: datetime) -> None:
    """Drop the checkpoints that nobody renewed since then."""
    session.execute(delete(Checkpoint).where(Checkpoint.created_at < older_than))


def add_event(session: Session, job_id: str, kind: str, data: dict[str, Any]) -> None:
    """Append a line to a job's history under the next number. None is before the one that it follows."""
    # Counting in the job's row makes two writers wait for each other instead of taking one number twice.
    counted = update(Job).where(Job.id == job_id).values(events=Job.events + 1).returning(Job.events, Job.project)
    number, project = session.execute(counted).one()
    last = select(JobEvent.at).where(JobEvent.job_id == job_id).order_by(JobEvent.seq.desc()).limit(1)
    at = clock(session)  # which may have been set back
    at = max(at, session.scalar(last) or at)
    session.add(JobEvent(project=project, job_id=job_id, seq=number, at=at, kind=kind, data=data))


def events(session: Session, job_id: str, after: int, limit: int) -> Sequence[JobEvent]:
    """Return a job's history behind a number, oldest first."""
    query = select(JobEvent).where(JobEvent.job_id == job_id, JobEvent.seq > after)
    return session.scalars(query.order_by(JobEvent.seq).limit(limit)).all()


def artifacts(session: Session, job_id: str) -> Sequence[Artifact]:
    """Return what a job produced, by name."""
    return session.scalars(select(Artifact).where(Artifact.job_id == job_id).order_by(Artifact.name)).all()


def artifact_page(session: Session, job_id: str, after: str | None, limit: int) -> Sequence[Artifact]:
    """Return what a job produced behind an id, by id."""
    query = select(Artifact).where(Artifact.job_id == job_id, Artifact.id > (after or ""))
    return session.scalars(query.order_by(Artifact.id).limit(limit)).all()


def find_artifact(session: Session, job_id: str, name: str) -> Artifact | None:
    """Return one artifact of a job."""
    return session.scalar(select(Artifact).where(Artifact.job_id == job_id, Artifact.name == name))


def live_job_with(session: Session, upload_id: str) -> str | None:
    """Return the id of a job that has not ended and needs this model or dataset."""
    needs = or_(Job.model_id == upload_id, Job.dataset_id == upload_id, Job.evaluation_dataset_id == upload_id)
    return session.scalar(select(Job.id).where(Job.state.in_(LIVE), needs).limit(1))


def find_worker(session: Session, name: str) -> Worker | None:
    """Return a worker that announced itself."""
    return session.get(Worker, name)


def devices_seen(session: Session, since: datetime) -> set[str]:
    """Return the devices of workers that announced themselves since then."""
    return set(session.scalars(select(Worker.device).where(Worker.seen_at >= since)))


def sandboxes_seen(session: Session, since: datetime) -> Sequence[dict[str, bool]]:
    """Return the sandbox layers of the workers that announced themselves since then."""
    return session.scalars(select(Worker.sandbox).where(Worker.seen_at >= since)).all()


def forget_workers(session: Session, not_seen_since: datetime) -> None:
    """Drop the workers that have not announced themselves since then."""
    session.execute(delete(Worker).where(Worker.seen_at < not_seen_since))


def delete_ended(session: Session, before: datetime, limit: int) -> int:
    """Delete some of the jobs that ended before a time, and return how many; their other rows go with them."""
    ended = select(Job.id).where(Job.state.not_in(LIVE), Job.finished_at < before).order_by(Job.id).limit(limit)
    query = delete(Job).where(Job.id.in_(ended)).returning(Job.id)
    return len(session.scalars(query, execution_options={"synchronize_session": False}).all())


def _is_due(at: datetime) -> ColumnElement[bool]:
    return or_(Job.not_before.is_(None), Job.not_before <= at)


def _moved(session: Session, query: Update) -> Job | None:
    return session.scalar(query.returning(Job), execution_options={"populate_existing": True})
