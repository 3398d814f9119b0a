"""Requests that wait for jobs to end: one query now and then for all of them, however many there are."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from anyio import CapacityLimiter, to_thread
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session, sessionmaker
from starlette.types import Receive

from app.api.bodies import bodies_of
from app.api.disconnects import ended_with_client
from app.api.schemas import JobBody
from app.api.stopping import Stopping
from app.jobs import queries
from app.jobs.status import TERMINAL

POLL_SECONDS = 0.25
LATE_SECONDS = 2.0
"""How much longer than it asked for a request waits where the database does not answer."""
BATCH = 50
"""Jobs that are read at once; other threads have the interpreter in between."""

MOST_BYTES = 2**24
"""Of requests that wait: each keeps its job, which holds the recipe that it sent, for as long."""

T = TypeVar("T")

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Waiter:
    """One request: the job as it was when it began to wait, and until when it waits."""

    job: JobBody
    until: float
    answer: asyncio.Future[JobBody]
    size: int

    def take(self, job: JobBody, at: float) -> None:
        """Answer with the job if it has ended, or the time is up."""
        if not self.answer.done() and (job.state in TERMINAL or self.until <= at):
            self.answer.set_result(job)


class Waits:
    """All requests of this process that wait for jobs, at most `most`. None of them holds a thread or a transaction."""

    def __init__(self, sessions: sessionmaker[Session], most: int) -> None:
        self._sessions = sessions
        self._most = most
        self._waiters: set[Waiter] = set()
        self._bytes = 0
        self._thread = CapacityLimiter(1)
        self._polling: asyncio.Task[None] | None = None

    def has_room(self, size: int = 0) -> bool:
        """Return whether one more request, of so many bytes, may wait; else it is answered at once."""
        return len(self._waiters) < self._most and self._bytes + size <= MOST_BYTES

    async def ended(self, job: JobBody, seconds: float, receive: Receive, stopping: Stopping, size: int = 0) -> JobBody:
        """Return the job when it has ended, the time is up, or this process stops.

        Raises ClientDisconnect when nobody waits any more.
        """
        if job.state in TERMINAL:
            return job
        async with self._waiting(job, seconds, size) as waiter, ended_with_client(receive):
            with stopping.wait(seconds + LATE_SECONDS):
                job = await waiter.answer
        return job

    @asynccontextmanager
    async def _waiting(self, job: JobBody, seconds: float, size: int) -> AsyncIterator[Waiter]:
        loop = asyncio.get_running_loop()
        waiter = Waiter(job, time.monotonic() + seconds, loop.create_future(), size)
        self._waiters.add(waiter)
        self._bytes += size
        if self._polling is None or self._polling.done():
            self._polling = loop.create_task(self._poll_while_any_waits())
        try:
            yield waiter
        finally:
            self._waiters.discard(waiter)
            self._bytes -= size

    async def _poll_while_any_waits(self) -> None:
        while self._waiters:
            await asyncio.sleep(POLL_SECONDS)
            if not self._waiters:
                return  # nothing is asked of a database that may be closed by now
            try:
                await self._poll()
            except SQLAlchemyError:
                log.warning("the database does not answer: requests go on waiting for their jobs", exc_info=True)
            except Exception:
                log.exception("could not look for jobs that requests wait for, trying again")

    async def _poll(self) -> None:
        """Answer the waiters whose job has ended, or whose time is up."""
        at = time.monotonic()
        due = {waiter.job.id for waiter in self._waiters if waiter.until <= at}
        waited_for = {waiter.job.id for waiter in self._waiters}
        ids = sorted(due | await self._in_thread(queries.ended, waited_for))
        for start in range(0, len(ids), BATCH):
            jobs = await self._in_thread(_read, ids[start : start + BATCH])
            for waiter in self._waiters:
                if waiter.job.id in jobs:
                    waiter.take(jobs[waiter.job.id], at)

    async def _in_thread(self, look: Callable[[Session, Collection[str]], T], ids: Collection[str]) -> T:
        return await to_thread.run_sync(partial(_with_session, self._sessions, look, ids), limiter=self._thread)


def _with_session(
    sessions: sessionmaker[Session], look: Callable[[Session, Collection[str]], T], ids: Collection[str]
) -> T:
    with sessions() as session:
        return look(session, ids)


def _read(session: Session, ids: Collection[str]) -> dict[str, JobBody]:
    return {body.id: body for body in bodies_of(JobBody, session, queries.read_many(session, ids))}
