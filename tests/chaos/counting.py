"""Looks at what became of every promise: in the database and in the storage, not through the service."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.database import clock
from app.jobs import tallies
from app.jobs.models import Artifact, Attempt, Job, JobEvent
from app.jobs.status import HELD, TERMINAL, JobState
from app.storage import Storage
from tests.chaos.program import Kind, kind_of, model_bytes, report_bytes
from tests.chaos.submitter import Promise

CODES = {Kind.CRASHES: "crashed", Kind.REFUSES: "program_invalid"}


@dataclass
class Counts:
    """All but `accepted`, `reruns` and `most_attempts` must be zero."""

    accepted: int = 0
    lost: int = 0
    """No row."""
    stuck: int = 0
    """Not ended."""
    twice: int = 0
    """Ended more than once, or not once though ended; artifacts of two attempts; two rows for one promise."""
    wrong: int = 0
    """Another end than the job's own, or other bytes."""
    miscounted: int = 0
    """By how much what operators see (ends by outcome, attempts that were claimed) differs from the rows."""
    reruns: int = 0
    most_attempts: int = 0
    which: list[str] = field(default_factory=list)

    @property
    def sound(self) -> bool:
        return (self.lost, self.stuck, self.twice, self.wrong, self.miscounted) == (0, 0, 0, 0, 0)

    def __str__(self) -> str:
        return (
            f"accepted {self.accepted}, lost {self.lost}, stuck {self.stuck}, not recorded once {self.twice}, "
            f"wrong {self.wrong}, miscounted {self.miscounted}; ran more than once {self.reruns}, "
            f"most attempts {self.most_attempts}"
        )


def count(session: Session, storage: Storage, promises: Sequence[Promise]) -> Counts:
    """Look at each promise, and for rows that nobody was promised."""
    counts = Counts(accepted=len(promises), miscounted=_miscounted(session))
    rows = Counter(recipe["seed"] for recipe in session.scalars(select(Job.recipe)))
    for promise in promises:
        job = session.get(Job, promise.job_id)
        runs = session.scalar(select(func.count()).where(Attempt.job_id == promise.job_id)) or 0
        counts.reruns += runs > 1
        counts.most_attempts = max(counts.most_attempts, runs)
        fault = _fault(session, storage, promise, job, rows[promise.seed])
        if fault:
            setattr(counts, fault, getattr(counts, fault) + 1)
            counts.which.append(f"{fault}: {promise} {job and (job.state, job.error)}")
    return counts


def _miscounted(session: Session) -> int:
    sums = tallies.sums(session)
    seen = Counter[str]()
    for (outcome, *_), one in sums[tallies.FINISHED].items():
        seen[outcome] += one.buckets.total()
    rows = Counter(session.scalars(select(Job.state).where(Job.state.in_(TERMINAL))).all())
    attempts = session.scalar(select(func.count()).select_from(Attempt)) or 0
    claimed = sum(one.buckets.total() for one in sums[tallies.WAIT_SECONDS].values())
    return sum(abs(seen[state] - rows[state]) for state in TERMINAL) + abs(attempts - claimed)


def abandoned(session: Session, _: Sequence[Promise]) -> set[str]:
    """The jobs that somebody held and no longer does."""
    return set(session.scalars(select(Job.id).where(Job.state.in_(HELD), Job.lease_until < clock(session))))


def unwritten(session: Session, promises: Sequence[Promise]) -> set[str]:
    """The jobs that were promised and have no row."""
    return {promise.job_id for promise in promises} - set(session.scalars(select(Job.id)))


def _fault(session: Session, storage: Storage, promise: Promise, job: Job | None, rows: int) -> str | None:
    if job is None:
        return "lost"
    if job.state not in TERMINAL:
        return "stuck"
    if rows != 1 or not _recorded_once(session, job):
        return "twice"
    return None if _is_right(session, storage, promise, job) else "wrong"


def _recorded_once(session: Session, job: Job) -> bool:
    events = session.scalars(select(JobEvent.data).where(JobEvent.job_id == job.id, JobEvent.kind == "state"))
    ends = [data["state"] for data in events if data["state"] in TERMINAL]
    outcomes = session.scalars(select(Attempt.outcome).where(Attempt.job_id == job.id)).all()
    from_attempts = set(session.scalars(select(Artifact.attempt).where(Artifact.job_id == job.id)))
    one_end = ends == [job.state] and sum(outcome in TERMINAL for outcome in outcomes) <= 1
    return one_end and None not in outcomes and len(from_attempts) <= 1


def _is_right(session: Session, storage: Storage, promise: Promise, job: Job) -> bool:
    if job.state == JobState.CANCELLED:
        return promise.cancelled
    kind = kind_of(promise.seed)
    if kind in CODES:
        return job.state == JobState.FAILED and (job.error or {}).get("code") == CODES[kind]
    return job.state == JobState.SUCCEEDED and _has_its_files(session, storage, job, kind)


def _has_its_files(session: Session, storage: Storage, job: Job, kind: Kind) -> bool:
    rows = session.execute(select(Artifact.name, Artifact.sha256).where(Artifact.job_id == job.id))
    listed = {name: sha256 for name, sha256 in rows}  # noqa: C416
    stored = {name: b"".join(storage.open(sha256)) for name, sha256 in listed.items()}
    if any(hashlib.sha256(stored[name]).hexdigest() != sha256 for name, sha256 in listed.items()):
        return False
    names = {"model.safetensors", "report.json", "manifest.json"}
    if kind is Kind.REAL:
        return stored.keys() == names | {"model.pt2"}
    ours = {"model.safetensors": model_bytes(job.recipe["seed"]), "report.json": report_bytes(job.recipe)}
    return stored.keys() == names and stored.items() >= ours.items()
