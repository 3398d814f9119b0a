"""What the caller's project has and does, held against its quotas."""

import math
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.accounts import audit
from app.accounts.quotas import Quotas
from app.catalog.models import Dataset, Model
from app.database import clock, lock_name
from app.errors import TooMany
from app.jobs.kinds import JobKind
from app.jobs.models import Artifact, Job
from app.jobs.status import LIVE
from app.uploads.models import ResumableUpload
from app.uploads.status import WITH_PARTS

DAY = timedelta(days=1)
SUBMITTED = tuple(f"{kind}.submitted" for kind in JobKind)
LATER_SECONDS = 60
"""When to ask again for what ends at no known time."""


@dataclass(frozen=True)
class Usage:
    """Bytes stored, those of unfinished uploads too, jobs that have not ended, and jobs of the last 24 hours."""

    bytes: int
    jobs: int
    jobs_a_day: int


def usage(session: Session) -> Usage:
    """Return what the caller's project uses."""
    return Usage(_bytes(session), _jobs(session), audit.count(session, SUBMITTED, clock(session) - DAY))


def check_bytes(session: Session, quotas: Quotas, more: int) -> None:
    """Raise TooMany when the project would store more bytes than it may."""
    if quotas.bytes is None:
        return
    used = _bytes(session)
    if used + more > quotas.bytes:
        raise _exceeded(
            f"This project stores {used} bytes, and {more} more would be over its {quotas.bytes}.",
            "Delete models, datasets and jobs that nobody needs, or ask the operator for more.",
        )


def check_jobs(session: Session, project: str, quotas: Quotas) -> None:
    """Raise TooMany when one more job is over a quota. In a transaction that adds the job: others wait for its end."""
    if quotas.jobs is None and quotas.jobs_a_day is None:
        return
    lock_name(session, f"quota.{project}")
    if quotas.jobs is not None and (jobs := _jobs(session)) >= quotas.jobs:
        raise _exceeded(
            f"This project has {jobs} jobs that have not ended, and may have {quotas.jobs}.",
            "Wait for one to end, or cancel one; Retry-After says when to ask again.",
        )
    if quotas.jobs_a_day is not None:
        _check_day(session, quotas.jobs_a_day)


def _check_day(session: Session, most: int) -> None:
    at = clock(session)
    oldest = audit.newest(session, SUBMITTED, most - 1) if most else at
    if oldest is not None and oldest + DAY > at:
        raise _exceeded(
            f"This project may submit {most} jobs in 24 hours, and has.",
            "Ask again later; Retry-After says when.",
            max(1, math.ceil((oldest + DAY - at).total_seconds())),
        )


def _bytes(session: Session) -> int:
    sizes = [
        select(func.sum(Model.stored_bytes)),
        select(func.sum(Dataset.stored_bytes)),
        select(func.sum(Artifact.bytes)).join(Job, Job.id == Artifact.job_id),
        select(func.sum(ResumableUpload.received_bytes)).where(ResumableUpload.state.in_(WITH_PARTS)),
    ]
    return sum(int(session.scalar(size) or 0) for size in sizes)


def _jobs(session: Session) -> int:
    live = select(func.count()).select_from(Job).where(Job.kind.in_(JobKind), Job.state.in_(LIVE))
    return session.scalar(live) or 0


def _exceeded(detail: str, remedy: str, retry_after: int = LATER_SECONDS) -> TooMany:
    return TooMany("quota_exceeded", detail, remedy, retry_after=retry_after)
