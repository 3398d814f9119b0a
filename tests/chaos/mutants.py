"""Breaks the service in one way, so that the chaos run can show that it would notice. CHAOS_MUTANT names the way.

    unfenced       no lease is renewed, nobody minds a lost claim, and an end is recorded over whatever the row says
    unreconciled   nobody takes back what a dead worker held
    hasty          an accepted job is committed a second after the answer

Every process of the chaos run, broken or not, tries a job as often as it takes: with a kill every few seconds a sound
job may well lose its worker three times, and would then rightly fail. So each that fails for that is a fault here.
"""

import os
import threading
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from sqlalchemy import delete, update
from sqlalchemy.orm import Session

from app.jobs import claims, endings, reconciler, repository, service
from app.jobs.claims import Claim, Standing
from app.jobs.models import Artifact, Job
from app.jobs.status import Move
from app.jobs.submission import MostSeconds, Submission
from worker.heartbeat import Heartbeat

ATTEMPTS = 1000
LATE_SECONDS = 1.0

submit = service.submit


def prepare() -> None:
    """Make this process one of the chaos run."""
    for module in (endings, reconciler):
        vars(module)["MAX_ATTEMPTS"] = ATTEMPTS
    _BREAK[os.environ.get("CHAOS_MUTANT", "")]()


def _unfence() -> None:
    def go_on(session: Session, claim: Claim, lease_seconds: float) -> Standing:
        return Standing.GO_ON

    def move_anyway(session: Session, job_id: str, by: Move, token: int, changes: dict[str, Any]) -> Job | None:
        # Else the database itself would refuse a second set of artifacts.
        session.execute(delete(Artifact).where(Artifact.job_id == job_id))
        return session.scalar(update(Job).where(Job.id == job_id).values(state=by.target, **changes).returning(Job))

    claims.renew = go_on
    repository.move = move_anyway
    Heartbeat.standing = property(lambda _: Standing.GO_ON)  # type: ignore[assignment, method-assign]


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
