"""Breaks the service in one way, so that the chaos run can show that it would notice. CHAOS_MUTANT names the way.

    unfenced       no lease is renewed, nobody minds a lost claim, and an end is recorded over whatever the row says;
                   one attempt at a time records its success only when another has ended the same job
    unreconciled   nobody takes back what a dead worker held
    hasty          an accepted job is committed a second after the answer

Every process of the chaos run, broken or not, tries a job as often as it takes: with a kill every few seconds a sound
job may well lose its worker three times, and would then rightly fail. So each that fails for that is a fault here.
"""

import fcntl
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from app.jobs import claims, endings, reconciler, repository, service
from app.jobs.claims import Claim, ClaimStatus
from app.jobs.models import Artifact, Job
from app.jobs.status import TERMINAL, Move
from app.jobs.submission import MostSeconds, Submission
from worker.heartbeat import Heartbeat

ATTEMPTS = 1000
LATE_SECONDS = 1.0
LOOK_SECONDS = 0.05

submit = service.submit
succeed = endings.succeed


def prepare() -> None:
    """Make this process one of the chaos run."""
    for most in ("MAX_ATTEMPTS", "MOST_ATTEMPTS"):
        vars(endings)[most] = ATTEMPTS
    _BREAK[os.environ.get("CHAOS_MUTANT", "")]()


def _unfence() -> None:
    """A lease that is lost shows where another attempt ends the job first: one waits for that, however long it takes.

    Whoever waits keeps a slot: one of them leaves enough for the others.
    """

    def go_on(session: Session, claim: Claim, lease_seconds: float) -> ClaimStatus:
        return ClaimStatus.GO_ON

    def move_anyway(session: Session, job_id: str, by: Move, token: int, changes: dict[str, Any]) -> Job | None:
        # Else the database itself would refuse a second set of artifacts.
        session.execute(delete(Artifact).where(Artifact.job_id == job_id))
        return session.scalar(update(Job).where(Job.id == job_id).values(state=by.target, **changes).returning(Job))

    def succeed_late(session: Session, claim: Claim, *product: Any, **more: Any) -> bool:
        with _alone() as alone:
            while alone and not _has_ended(session, claim.job_id):
                time.sleep(LOOK_SECONDS)
            return succeed(session, claim, *product, **more)

    endings.succeed = succeed_late
    claims.renew = go_on
    repository.move = move_anyway
    Heartbeat.claim_status = property(lambda _: ClaimStatus.GO_ON)  # type: ignore[assignment, method-assign]


@contextmanager
def _alone() -> Iterator[bool]:
    """Whether no other process of the run is in here; a killed one has left."""
    with (Path(os.environ["ZEROPOINT_SCRATCH_DIR"]).parent / "waits").open("wb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


def _has_ended(session: Session, job_id: str) -> bool:
    state = session.scalar(select(Job.state).where(Job.id == job_id))
    session.rollback()
    return state in TERMINAL


def _leave_lost() -> None:
    def recover(session: Session) -> None:
        """The lost stay lost."""

    reconciler.recover = recover


def _answer_early() -> None:
    def submit_early(session: Session, submission: Submission, most: MostSeconds) -> Job:
        later = Session(session.get_bind(), expire_on_commit=False)
        later.commit = later.flush  # type: ignore[method-assign]
        job = submit(later, submission, most)
        threading.Timer(LATE_SECONDS, partial(Session.commit, later)).start()
        return job

    service.submit = submit_early


_BREAK: Mapping[str, Callable[[], None]] = {
    "": lambda: None,
    "unfenced": _unfence,
    "unreconciled": _leave_lost,
    "hasty": _answer_early,
}
