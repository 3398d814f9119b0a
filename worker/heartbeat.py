"""A claim's heartbeat: a thread that renews the lease, records progress, and reads whether the job is to go on.

A database that hangs stops this thread and nothing else. By the worker's own clock the lease then ends a little before
others may claim the job: from then on `claim_status` is LOST, whatever the database says.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from contextvars import copy_context
from types import TracebackType
from typing import Self

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session, sessionmaker

from app.jobs import claims
from app.jobs.claims import Claim, ClaimStatus

BEATS_PER_LEASE = 4
LISTEN_SECONDS = 0.5
LAST_BEAT_SECONDS = 1.0
POLL_SECONDS = 0.002
SAFE_SHARE = 5 / 6
"""The share of the lease that is used: clocks drift, and stopping a child takes a moment."""

Write = Callable[[Session], ClaimStatus]

log = logging.getLogger(__name__)


class Heartbeat:
    """Beats while it is entered; `claim_status` is what the row last said, `report` has something written to it."""

    def __init__(
        self,
        sessions: sessionmaker[Session],
        claim: Claim,
        lease_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._sessions = sessions
        self._claim = claim
        self._lease_seconds = lease_seconds
        self._clock = clock
        self._held_until = clock() + lease_seconds * SAFE_SHARE
        self._renew_at = clock() + lease_seconds / BEATS_PER_LEASE
        self._status = ClaimStatus.GO_ON
        self._writes: deque[Write] = deque()
        self._asked = threading.Event()
        self._over = threading.Event()
        run = copy_context().run  # its log lines have the job's ids too
        self._thread = threading.Thread(target=run, args=(self._beat_until_over,), name="heartbeat", daemon=True)

    @property
    def claim_status(self) -> ClaimStatus:
        """Return whether to go on."""
        return ClaimStatus.LOST if self._clock() > self._held_until else self._status

    def report(self, write: Write) -> None:
        """Have something written soon, in order; while the database is away, it waits."""
        self._writes.append(write)
        self._asked.set()

    def flush(self, seconds: float) -> None:
        """Wait until every report is written, but no longer than this: a job's end must follow its phases."""
        until = self._clock() + seconds
        while self._writes and self._clock() < until:
            time.sleep(POLL_SECONDS)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._asked.set()
        self._thread.join(LAST_BEAT_SECONDS)

    def _beat_until_over(self) -> None:
        pause = min(LISTEN_SECONDS, self._lease_seconds / BEATS_PER_LEASE)
        while not self._over.is_set():
            try:
                self._status = self._beat()
            except SQLAlchemyError:
                log.warning("the database does not answer, the child goes on while the lease holds")
            except Exception:
                log.exception("this beat failed, the next one may not")
            self._asked.wait(pause)
            self._asked.clear()

    def _beat(self) -> ClaimStatus:
        with self._sessions() as session:
            status = claims.claim_status(session, self._claim)
            while self._writes and status is not ClaimStatus.LOST:
                status = self._writes[0](session)
                self._writes.popleft()
            began = self._clock()
            if began >= self._renew_at and status is not ClaimStatus.LOST:
                status = claims.renew(session, self._claim, self._lease_seconds)
                self._held_until = began + self._lease_seconds * SAFE_SHARE
                self._renew_at = began + self._lease_seconds / BEATS_PER_LEASE
        return status
