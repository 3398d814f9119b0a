"""A worker's right to run a job: to claim it, to hold it, to report on it. Each use-case is one transaction.

The row decides. A claim has a fencing token and a lease. Every write of a worker names its token, so a worker that was
presumed dead can change nothing.
"""

from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from typing import Any

from sqlalchemy.orm import Session

from app.accounts.caller import DEFAULT_PROJECT
from app.catalog.models import Dataset, Model
from app.catalog.service import DATASETS, MODELS
from app.database import begin_writing, clock
from app.jobs import repository, tallies
from app.jobs.admission import source_of
from app.jobs.models import Attempt, Checkpoint, Job
from app.jobs.status import CLAIM, HELD, JobState
from app.jobs.work import Work, work_of
from app.storage import Blob
from zeropoint.schema.formats import SourceFormat
from zeropoint.schema.job import Progress


class ClaimStatus(StrEnum):
    """What the row says to the worker that holds a token."""

    GO_ON = "go_on"
    CANCEL = "cancel"
    LOST = "lost"


@dataclass(frozen=True)
class Input(Blob):
    """A blob that the gate wrote, and the upload that it replaces, whose digest and size the owner knows."""

    uploaded_sha256: str
    uploaded_bytes: int


@dataclass(frozen=True)
class Claim:
    """A worker's right to run a job, and all it needs to do so."""

    job_id: str
    token: int
    attempt: int
    work: Work
    device: str
    running_seconds: int
    model: Input
    model_format: SourceFormat
    dataset: Input | None
    evaluation_dataset: Input | None
    project: str = DEFAULT_PROJECT
    model_id: str = ""
    owner: str = ""
    request_id: str | None = None
    trace: str | None = None
    waited_seconds: float = field(default=0.0, compare=False)


def claim(session: Session, device: str, worker: str, lease_seconds: float) -> Claim | None:
    """Claim the queued job that comes next; return None when there is none."""
    begin_writing(session)
    at = clock(session)
    job_id = repository.next_queued(session, device, at)
    changes: dict[str, Any] = {
        "worker": worker,
        "lease_until": at + timedelta(seconds=lease_seconds),
        "not_before": None,
        "started_at": at,
        "attempts": Job.attempts + 1,
        "fruitless": Job.fruitless + 1,
    }
    job = repository.claim(session, job_id, CLAIM, changes) if job_id else None
    if job is None:
        session.rollback()
        return None
    # Counted before the work: a job that takes its machine down with it is counted too.
    session.add(
        Attempt(job_id=job.id, token=job.token, number=job.attempts, worker=worker, device=device, started_at=at)
    )
    repository.note_served(session, job.project, at)
    waited = max((at - (job.queued_at or job.created_at)).total_seconds(), 0.0)
    tallies.observe(session, tallies.WAIT_SECONDS, waited, device)
    repository.add_event(session, job.id, "state", {"state": job.state, "attempt": job.attempts})
    claimed = _claim_of(session, job, waited)
    session.commit()
    return claimed


def renew(session: Session, claim: Claim, lease_seconds: float) -> ClaimStatus:
    """Renew the lease."""
    begin_writing(session)
    until = clock(session) + timedelta(seconds=lease_seconds)
    state = repository.renew(session, claim.job_id, claim.token, until)
    session.commit()
    return _status(state)


def claim_status(session: Session, claim: Claim) -> ClaimStatus:
    """Return whether the worker is to go on; the transaction of this read ends."""
    job = repository.find(session, claim.job_id)
    session.rollback()
    return status_of(job, claim)


def report_progress(session: Session, claim: Claim, progress: Progress, eta_seconds: float | None) -> ClaimStatus:
    """Record the progress of the work; a new phase also becomes a line of the history."""
    begin_writing(session)
    job = repository.lock(session, claim.job_id)
    status = status_of(job, claim)
    if job is None or status == ClaimStatus.LOST:
        session.rollback()
        return ClaimStatus.LOST
    if job.phase != progress.phase:
        repository.add_event(session, job.id, "phase", {"phase": progress.phase})
    job.phase, job.done, job.total = progress.phase, progress.done, progress.total
    job.eta_seconds = eta_seconds
    session.commit()
    return status


def keep_checkpoint(session: Session, claim: Claim, key: str, name: str, blob: Blob) -> ClaimStatus:
    """Record a blob from which another attempt can continue; it replaces the one of the same name."""
    begin_writing(session)
    job = repository.lock(session, claim.job_id)
    status = status_of(job, claim)
    if job is not None and status != ClaimStatus.LOST:
        job.fruitless = 0
        checkpoint = Checkpoint(key=key, name=name, sha256=blob.sha256, bytes=blob.bytes, created_at=clock(session))
        session.merge(checkpoint)
    session.commit()
    return status


def checkpoints(session: Session, key: str) -> dict[str, str]:
    """Return name and sha256 of what attempts with this key left."""
    digests = {row.name: row.sha256 for row in repository.checkpoints(session, key)}
    session.rollback()
    return digests


def status_of(job: Job | None, claim: Claim) -> ClaimStatus:
    """Return what a row says to the holder of a claim."""
    return _status(JobState(job.state) if job is not None and job.token == claim.token else None)


def _status(state: JobState | None) -> ClaimStatus:
    if state not in HELD:
        return ClaimStatus.LOST
    return ClaimStatus.CANCEL if state == JobState.CANCELLING else ClaimStatus.GO_ON


def _claim_of(session: Session, job: Job, waited: float) -> Claim:
    model = MODELS.read(session, job.model_id)
    return Claim(
        job_id=job.id,
        token=job.token,
        attempt=job.attempts,
        project=job.project,
        owner=job.owner,
        request_id=job.request_id,
        trace=job.trace,
        waited_seconds=waited,
        model_id=job.model_id,
        work=work_of(job),
        device=job.device,
        running_seconds=job.running_seconds,
        model=_input(model),
        model_format=source_of(model),
        dataset=_dataset(session, job.dataset_id),
        evaluation_dataset=_dataset(session, job.evaluation_dataset_id),
    )


def _dataset(session: Session, dataset_id: str | None) -> Input | None:
    return None if dataset_id is None else _input(DATASETS.read(session, dataset_id))


def _input(upload: Model | Dataset) -> Input:
    return Input(upload.stored_sha256, upload.stored_bytes, upload.sha256, upload.bytes)
