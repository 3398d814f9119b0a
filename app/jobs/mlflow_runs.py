"""What MLflow has to hear of jobs: rows that the transactions of a job's claim and end write, and who tells it.

A row stays until MLflow knows how the job ended, so a server that is away keeps up no job and misses none. One process
at a time tells of a job, for as long as its lease (docs/decisions/0059-mlflow-by-rows.md).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Update, and_, delete, func, or_, select, update
from sqlalchemy.orm import Session, undefer_group

from app.catalog.models import Model
from app.database import TELLS_MLFLOW, begin_writing, clock
from app.jobs.models import WORK, Artifact, Job, JobEvent, MlflowRun
from app.jobs.status import TERMINAL, JobState
from zeropoint.schema.job import REPORT_FILE, SWEEP_FILE

KEEP = timedelta(days=1)
"""For so long after a job's end it is tried again and again."""
FIRST_PAUSE = timedelta(seconds=5)
LONGEST_PAUSE = timedelta(minutes=5)
MOST_ERROR = 512


@dataclass(frozen=True)
class Facts:
    """What a job's rows say of it. `seconds` has each phase of the last attempt, and the whole."""

    kind: str
    owner: str
    tags: list[str]
    device: str
    model_id: str
    model_name: str | None
    dataset_id: str | None
    evaluation_dataset_id: str | None
    attempts: int
    verdict: str | None
    error: Mapping[str, Any] | None
    started_at: datetime
    finished_at: datetime | None
    recipe: Mapping[str, Any]
    sweep: Mapping[str, Any] | None
    seconds: Mapping[str, float]
    result_name: str
    result_sha256: str | None


@dataclass(frozen=True)
class Due:
    """What this process tells MLflow now. `facts` is None when the job was deleted, `state` then its last known."""

    job_id: str
    project: str
    attempt: int
    opened: bool
    state: JobState
    facts: Facts | None

    @property
    def has_ended(self) -> bool:
        """Return whether the run is to be closed."""
        return self.facts is None or self.state in TERMINAL


@dataclass(frozen=True)
class Waiting:
    """How many jobs MLflow has still to hear of, and since how many seconds the first of them."""

    jobs: int
    oldest_seconds: float


def note(session: Session, job: Job) -> None:
    """Note that a job was claimed, or has ended, in the caller's transaction; nothing where no MLflow server is set.

    The caller has the job's row, so two don't write one row at once. Its due time is left: a lease may be held on it.
    """
    if not session.get_bind().get_execution_options().get(TELLS_MLFLOW):
        return
    at, row = clock(session), session.get(MlflowRun, job.id)
    if row is None:
        row = MlflowRun(job_id=job.id, project=job.project, due_at=at)
        session.add(row)
    row.state, row.noted_at = job.state, at


def claim(session: Session, lease: timedelta) -> Due | None:
    """Claim the row that is due first, for as long as the lease; None when there is none."""
    if session.scalar(select(MlflowRun.job_id).outerjoin(*_JOB).where(_is_due(clock(session))).limit(1)) is None:
        session.rollback()
        return None
    begin_writing(session)
    at = clock(session)
    query = select(MlflowRun).outerjoin(*_JOB).where(_is_due(at)).order_by(MlflowRun.due_at, MlflowRun.job_id).limit(1)
    row = session.scalar(query.with_for_update(of=MlflowRun, skip_locked=True))
    if row is None:
        session.rollback()
        return None
    row.attempts += 1
    row.due_at = at + lease
    job = session.get(Job, row.job_id, options=[undefer_group(WORK)], populate_existing=True)
    facts = None if job is None else _facts_of(session, job)
    state = JobState(row.state if job is None else job.state)
    due = Due(row.job_id, row.project, row.attempts, row.opened, state, facts)
    session.commit()
    return due


def record_opened(session: Session, due: Due) -> None:
    """Record that MLflow has the run: the next that it hears of the job is its end."""
    begin_writing(session)
    opened = {"opened": True, "due_at": clock(session), "last_error": None}
    session.execute(_own(due).values(opened))
    session.commit()


def record_closed(session: Session, due: Due) -> None:
    """Record that MLflow knows the end."""
    begin_writing(session)
    session.execute(delete(MlflowRun).where(MlflowRun.job_id == due.job_id, MlflowRun.attempts == due.attempt))
    session.commit()


def record_failed(session: Session, due: Due, error: str) -> bool:
    """Record that MLflow was not told; it will be, after a pause. Return False when it is given up, a day after."""
    begin_writing(session)
    at = clock(session)
    row = session.get(MlflowRun, due.job_id, with_for_update=True, populate_existing=True)
    if row is None or row.attempts != due.attempt:
        session.rollback()
        return True
    tried_for = at - (due.facts.finished_at if due.facts and due.facts.finished_at else row.noted_at)
    row.last_error = error[:MOST_ERROR]
    row.due_at = at + min(max(tried_for, FIRST_PAUSE), LONGEST_PAUSE)
    keep = not due.has_ended or tried_for < KEEP
    if not keep:
        session.delete(row)
    session.commit()
    return keep


def make_due(session: Session) -> None:
    """Let all that failed be told now: the server is back."""
    begin_writing(session)
    at = clock(session)
    session.execute(update(MlflowRun).where(MlflowRun.last_error.is_not(None), MlflowRun.due_at > at).values(due_at=at))
    session.commit()


def waiting(session: Session) -> Waiting:
    """Return what MLflow has still to hear of."""
    since = func.min(func.coalesce(Job.finished_at, MlflowRun.noted_at))
    count, oldest = session.execute(
        select(func.count(), since).select_from(MlflowRun).outerjoin(*_JOB).where(_TELLS)
    ).one()
    return Waiting(count, max((clock(session) - oldest).total_seconds(), 0.0) if oldest else 0.0)


_JOB = (Job, Job.id == MlflowRun.job_id)
_TELLS = or_(MlflowRun.opened.is_(False), Job.id.is_(None), Job.state.in_(TERMINAL), MlflowRun.state.in_(TERMINAL))
"""The run is to be opened, or to be closed."""


def _is_due(at: datetime) -> ColumnElement[bool]:
    return and_(MlflowRun.due_at <= at, _TELLS)


def _own(due: Due) -> Update:
    return update(MlflowRun).where(MlflowRun.job_id == due.job_id, MlflowRun.attempts == due.attempt)


def _facts_of(session: Session, job: Job) -> Facts:
    events = session.scalars(select(JobEvent).where(JobEvent.job_id == job.id).order_by(JobEvent.seq)).all()
    results = select(Artifact).where(Artifact.job_id == job.id, Artifact.name.in_((REPORT_FILE, SWEEP_FILE)))
    result = session.scalar(results)
    return Facts(
        kind=job.kind,
        owner=job.owner,
        tags=job.tags,
        device=job.device,
        model_id=job.model_id,
        model_name=session.scalar(select(Model.name).where(Model.id == job.model_id)),
        dataset_id=job.dataset_id,
        evaluation_dataset_id=job.evaluation_dataset_id,
        attempts=job.attempts,
        verdict=job.verdict,
        error=job.error,
        started_at=_began(job, events),
        finished_at=job.finished_at,
        recipe=job.recipe,
        sweep=job.sweep,
        seconds=_seconds(job, events),
        result_name=result.name if result else REPORT_FILE,
        result_sha256=result.sha256 if result else None,
    )


def _began(job: Job, events: Iterable[JobEvent]) -> datetime:
    """Return when the first attempt began; of a job without any, when it was submitted."""
    return next((event.at for event in events if event.data.get("state") == JobState.RUNNING), job.created_at)


def _seconds(job: Job, events: Iterable[JobEvent]) -> dict[str, float]:
    """Return how long each phase of the last attempt took, and the job from its submission to its end."""
    found: dict[str, float] = {}
    phase, since = None, job.created_at
    for event in events:
        if event.data.get("state") == JobState.CANCELLING:
            continue  # the phase goes on
        if event.data.get("state") == JobState.RUNNING:
            found.clear()
        if phase:
            found[phase] = (event.at - since).total_seconds()
        phase, since = event.data.get("phase"), event.at
    if job.finished_at is not None:
        found["total"] = (job.finished_at - job.created_at).total_seconds()
    return found
