"""Breaks the service in one way, so that the chaos run can show that it would notice. CHAOS_MUTANT names the way.

    unfenced       no lease is renewed, nobody minds a lost claim, and an end is recorded over whatever the row says;
                   one attempt at a time records its success only when another has ended the same job
    unreconciled   nobody takes back what a dead worker held
    hasty          an accepted job is committed a second after the answer
    forgetful      a key is forgotten as soon as it made a job
    repainting     an artifact has other bytes from its second download on
    deaf           a cancel is accepted, and nothing is done about it
    heedless       no worker stops for a cancel
    backward       a job that has succeeded is queued again
    blind          lists leave out the newest job

Every process of the chaos run, broken or not, tries a job as often as it takes, after short pauses: with a kill every
few seconds a sound job may well lose its worker several times, and would then rightly fail. So each that fails for that
is a fault here.
"""

import fcntl
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from app.accounts.quotas import NO_QUOTAS, Quotas
from app.jobs import claims, endings, queries, reconciler, repository, service, tallies
from app.jobs.claims import Claim, ClaimStatus
from app.jobs.models import Artifact, Job
from app.jobs.status import TERMINAL, JobState, Move
from app.jobs.submission import Admitted, MostSeconds, Submission
from worker.heartbeat import Heartbeat

ATTEMPTS = 1000
PAUSE = timedelta(seconds=0.1)
FOLD_ROWS = 20
"""Counts are added up again and again while parts are killed."""
LATE_SECONDS = 1.0
LOOK_SECONDS = 0.05

check, accept = service.prepare, service.accept
succeed = endings.succeed
artifact = queries.artifact
page = queries.page


def prepare() -> None:
    """Make this process one of the chaos run."""
    for most in ("MAX_ATTEMPTS", "MOST_ATTEMPTS"):
        vars(endings)[most] = ATTEMPTS
    endings.RETRY_PAUSE = PAUSE
    tallies.FOLD_ROWS = FOLD_ROWS
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
    def accept_early(session: Session, admitted: Admitted, most: MostSeconds, quotas: Quotas = NO_QUOTAS) -> Job:
        later = Session(session.get_bind(), expire_on_commit=False)
        later.commit = later.flush  # type: ignore[method-assign]
        job = accept(later, admitted, most, quotas)
        threading.Timer(LATE_SECONDS, partial(Session.commit, later)).start()
        return job

    service.accept = accept_early


def _forget_keys() -> None:
    def prepare_without(session: Session, submission: Submission) -> Job | Admitted:
        return check(session, replace(submission, idempotency_key=None))

    service.prepare = prepare_without


def _change_artifacts() -> None:
    downloaded: set[tuple[str, str]] = set()

    def another(session: Session, job_id: str, name: str) -> Artifact:
        if (job_id, name) not in downloaded:
            downloaded.add((job_id, name))
            return artifact(session, job_id, name)
        return next(row for row in queries.artifacts(session, job_id) if row.name != name)

    queries.artifact = another


def _ignore_cancels() -> None:
    def do_nothing(session: Session, job_id: str) -> Job:
        return queries.read(session, job_id)

    service.request_cancel = do_nothing


def _work_on() -> None:
    def go_on(beat: Heartbeat) -> ClaimStatus:
        status = claim_status(beat)
        return ClaimStatus.GO_ON if status is ClaimStatus.CANCEL else status

    claim_status: Callable[[Heartbeat], ClaimStatus] = vars(Heartbeat)["claim_status"].fget
    Heartbeat.claim_status = property(go_on)  # type: ignore[assignment, method-assign]


def _go_back() -> None:
    def succeed_and_return(session: Session, claim: Claim, *product: Any, **more: Any) -> bool:
        done = succeed(session, claim, *product, **more)
        time.sleep(LATE_SECONDS)  # for callers to see it
        session.execute(update(Job).where(Job.id == claim.job_id).values(state=JobState.QUEUED))
        session.commit()
        return done

    endings.succeed = succeed_and_return


def _leave_out() -> None:
    def all_but_first(session: Session, kind: Any, chosen: Any, before: str | None, limit: int) -> Sequence[Job]:
        rows = page(session, kind, chosen, before, limit)
        return rows if before else rows[1:]

    queries.page = all_but_first


_BREAK: Mapping[str, Callable[[], None]] = {
    "": lambda: None,
    "unfenced": _unfence,
    "unreconciled": _leave_lost,
    "hasty": _answer_early,
    "forgetful": _forget_keys,
    "repainting": _change_artifacts,
    "deaf": _ignore_cancels,
    "heedless": _work_on,
    "backward": _go_back,
    "blind": _leave_out,
}
