"""How attempts end: recorded once, with all results, by the holder of the token, or not at all.

A failure of the job itself is final. If infrastructure was lost, the job is queued again while attempts are left.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import case
from sqlalchemy.orm import Session

from app.database import begin_writing, clock, new_id
from app.jobs import repository, tallies
from app.jobs.claims import Claim, ClaimStatus, status_of
from app.jobs.models import Artifact, Job
from app.jobs.status import FAIL, RETRY, STOP, SUCCEED, Move
from app.jobs.taxonomy import is_transient
from app.storage import Blob
from zeropoint.schema.job import Failure

MAX_ATTEMPTS = 5
"""In a row without a checkpoint that was kept. The pauses between them add up to more than a bad minute."""
MOST_ATTEMPTS = 30
"""In all: something may kill a job each time that it has done a little more."""
RETRY_PAUSE = timedelta(seconds=5)
LONGEST_PAUSE = timedelta(minutes=5)
VALIDATION_FAILED = "validation_failed"


@dataclass(frozen=True)
class Product:
    """One artifact that was stored."""

    name: str
    kind: str
    blob: Blob


@dataclass(frozen=True)
class Measured:
    """What a worker measured of an attempt: the most memory that it held, the seconds of each phase that it ended.

    `sqnr_db`: what the result's report says of the whole model, infinity where it is exact.
    """

    peak_memory_bytes: int | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)
    sqnr_db: float | None = None


UNMEASURED = Measured()


def succeed(
    session: Session,
    claim: Claim,
    verdict: str | None,
    products: Sequence[Product],
    measured: Measured = UNMEASURED,
) -> bool:
    """Record success with its artifacts; return False, with nothing written, when the token is no longer the job's.

    `verdict`: None for a sweep.
    """
    return _end(session, claim, SUCCEED, products, measured, verdict=verdict)


def fail(
    session: Session,
    claim: Claim,
    failure: Failure,
    products: Sequence[Product] = (),
    measured: Measured = UNMEASURED,
) -> bool:
    """Record why a job failed, with its report if there is one.

    After a transient failure the job is queued again while attempts are left.
    """
    if is_transient(failure.code) and _has_attempts_left(session, claim):
        again = _requeue(session, claim, failure.code, measured, pause=True)
        return again or stop(session, claim, measured)
    verdict = "failed" if failure.code == VALIDATION_FAILED else None
    return _end(session, claim, FAIL, products, measured, verdict=verdict, error=failure.model_dump())


def stop(session: Session, claim: Claim, measured: Measured = UNMEASURED) -> bool:
    """Record that the work was stopped because the job was cancelled."""
    return _end(session, claim, STOP, (), measured)


def release(session: Session, claim: Claim) -> bool:
    """Release a job, because its worker shuts down, for another worker. This does not count as an attempt."""
    fewer: dict[str, Any] = {
        "attempts": Job.attempts - 1,
        "fruitless": case((Job.fruitless > 0, Job.fruitless - 1), else_=0),
    }
    return _requeue(session, claim, tallies.RELEASED, UNMEASURED, **fewer) or stop(session, claim)


def may_try_again(job: Job) -> bool:
    """Return whether a job whose infrastructure was lost is tried again."""
    return job.fruitless < MAX_ATTEMPTS and job.attempts < MOST_ATTEMPTS


def requeue(session: Session, job: Job, at: datetime, because: str, **changes: Any) -> bool:
    """Put a job whose attempt ended back into the queue, within the caller's transaction."""
    ended = {"phase": None, "eta_seconds": None, "worker": None, "lease_until": None, "done": 0, "total": 0}
    waits = {
        "pending_until": at + timedelta(seconds=job.pending_seconds),
        "queued_at": changes.get("not_before") or at,
    }
    if repository.move(session, job.id, RETRY, job.token, {**ended, **waits, **changes}) is None:
        return False
    repository.end_attempt(session, job.id, job.token, ended_at=at, outcome=because)
    repository.add_event(session, job.id, "state", {"state": RETRY.target, "because": because})
    tallies.count(session, tallies.RETRIES, because, job.device)
    return True


def finish(
    session: Session, job_id: str, token: int, by: Move, at: datetime, *, sqnr_db: float | None = None, **results: Any
) -> bool:
    """End a job for good, within the caller's transaction; False when its token is another one."""
    ended: dict[str, Any] = {"phase": None, "eta_seconds": None, "lease_until": None, "finished_at": at}
    ended["sqnr_db"] = sqnr_db
    if by is SUCCEED:
        ended["done"] = Job.total  # the last step of publishing is this transaction
    if repository.move(session, job_id, by, token, {**ended, **results}) is None:
        return False
    repository.end_attempt(session, job_id, token, ended_at=at, outcome=by.target)
    data = {"state": by.target} | {key: value for key, value in results.items() if value is not None}
    repository.add_event(session, job_id, "state", data)
    return True


def _end(
    session: Session, claim: Claim, by: Move, products: Sequence[Product], measured: Measured, **results: Any
) -> bool:
    begin_writing(session)
    at = clock(session)
    if not finish(session, claim.job_id, claim.token, by, at, sqnr_db=measured.sqnr_db, **results):
        session.rollback()
        return False
    _keep(session, claim, measured)
    session.add_all(_artifact(claim, product, at) for product in products)
    session.commit()
    return True


def _has_attempts_left(session: Session, claim: Claim) -> bool:
    job = repository.find(session, claim.job_id)
    session.rollback()
    return job is not None and may_try_again(job)


def _requeue(
    session: Session, claim: Claim, because: str, measured: Measured, *, pause: bool = False, **changes: Any
) -> bool:
    begin_writing(session)
    at = clock(session)
    job = repository.lock(session, claim.job_id)
    if job is not None and pause:
        changes["not_before"] = at + pause_before(job.fruitless)
    held = job is not None and status_of(job, claim) != ClaimStatus.LOST
    if job is None or not held or not requeue(session, job, at, because, **changes):
        session.rollback()
        return False
    _keep(session, claim, measured)
    session.commit()
    return True


def _keep(session: Session, claim: Claim, measured: Measured) -> None:
    repository.end_attempt(session, claim.job_id, claim.token, peak_memory_bytes=measured.peak_memory_bytes)
    peak = measured.peak_memory_bytes
    tallies.observe_attempt(session, measured.seconds, peak, claim.model_format, claim.device)


def pause_before(fruitless: int) -> timedelta:
    """Return how long a job waits after so many attempts in a row that came to nothing."""
    return min(RETRY_PAUSE * int(2 ** max(0, fruitless - 1)), LONGEST_PAUSE)


def _artifact(claim: Claim, product: Product, at: datetime) -> Artifact:
    return Artifact(
        id=new_id("art", at),
        job_id=claim.job_id,
        attempt=claim.attempt,
        name=product.name,
        kind=product.kind,
        bytes=product.blob.bytes,
        sha256=product.blob.sha256,
        created_at=at,
    )
