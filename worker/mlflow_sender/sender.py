"""Tells MLflow of all that is due, one job after another; while the server is away it is asked less and less often."""

import logging
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session, sessionmaker

from app import logs
from app.jobs import mlflow_runs
from app.jobs.mlflow_runs import Due
from app.storage import BlobDamaged, Storage
from worker.mlflow_sender.tracking import Tracking, is_away

POLL_SECONDS = 0.5
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0
LEASE = timedelta(seconds=60)
MOST_SECONDS = 45
"""For one job: another process may take it when the lease has ended."""

log = logging.getLogger(__name__)


class TookTooLong(BaseException):
    """MLflow, or the storage, took longer for one job than it may. No `except Exception` of a library holds it up."""


@dataclass
class Sender:
    """What tells MLflow, and whether it answered the last time."""

    sessions: sessionmaker[Session]
    storage: Storage
    tracking: Tracking
    pause: float = field(default=0.0)
    """How long MLflow is left alone after the last failure; 0: it answers."""

    def look(self) -> float:
        """Tell of all that is due; return for how many seconds there is nothing to do."""
        try:
            while due := self._next():
                if not self._told(due):
                    return self.pause
        except SQLAlchemyError:
            log.warning("the database does not answer: MLflow hears of jobs later")
        return POLL_SECONDS

    def _next(self) -> Due | None:
        with self.sessions() as session:
            return mlflow_runs.claim(session, LEASE)

    def _told(self, due: Due) -> bool:
        """Tell of one job and record that; return whether MLflow answers."""
        with logs.about(job_id=due.job_id, project=due.project), self.sessions() as session:
            try:
                with _seconds(MOST_SECONDS):
                    self.tracking.tell(due, self._result_of(due))
            except (Exception, TookTooLong) as error:
                return self._failed(session, due, error)
            (mlflow_runs.record_closed if due.has_ended else mlflow_runs.record_opened)(session, due)
            self._answers(session)
            return True

    def _answers(self, session: Session) -> None:
        if self.pause:
            log.info("MLflow is back: it hears of what it missed")
            self.pause = 0.0
            mlflow_runs.make_due(session)

    def _failed(self, session: Session, due: Due, error: BaseException) -> bool:
        self.tracking.forget()
        words = logs.fields(error=f"{type(error).__name__}: {error}"[:500], attempt=due.attempt)
        if not mlflow_runs.record_failed(session, due, type(error).__name__):
            log.error("MLflow did not hear of this job for a day, and will not", extra=words)
        if not isinstance(error, TookTooLong) and not is_away(error):
            log.warning("MLflow refused something of this job: it is sent again", extra=words)
            return True
        if not self.pause:
            log.warning("MLflow does not answer: jobs go on, and it hears of them later", extra=words)
        self.pause = min(2 * self.pause or FIRST_PAUSE, LONGEST_PAUSE)
        return False

    def _result_of(self, due: Due) -> bytes | None:
        """Return the report of a job that has ended; None if there is none, or its bytes are gone."""
        if not due.has_ended or due.facts is None or due.facts.result_sha256 is None:
            return None
        try:
            return b"".join(self.storage.open(due.facts.result_sha256))
        except (BlobDamaged, FileNotFoundError):
            log.warning("the report of this job is gone: MLflow hears of it without that")
            return None


@contextmanager
def _seconds(most: float) -> Iterator[None]:
    """Raise TookTooLong where the block takes longer, whatever it waits for."""

    def stop(*_: object) -> None:
        raise TookTooLong(f"it took longer than {most:g} seconds")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, most)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
