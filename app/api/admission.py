"""Admission: how much of each kind of work this process does at once, how much may wait, and when it is refused.

Each kind has places of its own, so that no kind starves another: uploads being received, gates, reads and writes of
the database, reads and writes of files. Health checks need none of them.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from anyio import CancelScope, CapacityLimiter, to_thread

from app.errors import Unavailable
from app.settings import Settings

BODIES = 256
"""Uploads that are received at once: each holds a file and at most 1 MiB of memory, however slow its client is."""
FILES = 16
"""Reads and writes of stored files at once."""
DATABASE_SECONDS = 10.0
"""How long a request waits for a connection to the database."""
GATE_SECONDS = 300.0
"""How long an upload waits for a gate."""
FILE_SECONDS = 60.0

T = TypeVar("T")


class Places:
    """Places for one kind of work, with a bounded queue in front of them.

    Who finds the queue full is refused at once, and who waits in it too long is refused then.
    """

    def __init__(self, at_once: int, queue: int, seconds: float, refusal: Callable[[], Unavailable]) -> None:
        self.at_once = at_once
        self._queue = queue
        self._seconds = seconds
        self._refusal = refusal
        self._free = asyncio.Semaphore(at_once)
        self._threads = CapacityLimiter(at_once)
        self.in_use = 0
        self.waiting = 0

    def check(self) -> None:
        """Raise Unavailable where there is neither a place nor room in the queue."""
        if self._free.locked() and self.waiting >= self._queue:
            raise self._refusal()

    @asynccontextmanager
    async def taken(self) -> AsyncIterator[None]:
        """Hold a place while the block runs. Raises Unavailable."""
        self.check()
        self.waiting += 1
        try:
            async with asyncio.timeout(self._seconds):
                await self._free.acquire()
        except TimeoutError:
            raise self._refusal() from None
        finally:
            self.waiting -= 1
        self.in_use += 1
        try:
            yield
        finally:
            self.in_use -= 1
            self._free.release()

    async def run(self, work: Callable[..., T], *arguments: object) -> T:
        """Call `work` in a thread, in a place of its own. Raises Unavailable, and what `work` raises."""
        async with self.taken():
            return await to_thread.run_sync(partial(work, *arguments), limiter=self._threads)

    async def finish(self, work: Callable[[], T]) -> T:
        """Call what must be done, whoever goes away meanwhile, in a thread and without a place of its own."""
        with CancelScope(shield=True):
            result = await to_thread.run_sync(work, limiter=self._threads)
        return result


@dataclass(frozen=True)
class Admission:
    """The places of a process."""

    bodies: Places
    gates: Places
    files: Places
    reading: Places
    writing: Places
    """Of the database's connections: who waits for the lock of a writer keeps nobody from reading."""


def admission_for(settings: Settings, gates: int) -> Admission:
    """Return the places that the settings give, and so many gates."""
    # SQLite lets one write at a time, and who else waits for its lock is served in no order.
    writing = 1 if settings.database_url.startswith("sqlite") else settings.database_connections // 2
    database = partial(Places, queue=settings.database_queue, seconds=DATABASE_SECONDS, refusal=database_busy)
    return Admission(
        bodies=Places(BODIES, 0, GATE_SECONDS, uploads_busy),
        gates=Places(gates, settings.gate_queue, GATE_SECONDS, uploads_busy),
        files=Places(FILES, BODIES, FILE_SECONDS, files_busy),
        reading=database(settings.database_connections - writing),
        writing=database(writing),
    )


def uploads_busy() -> Unavailable:
    """Return the refusal of an upload that finds no place."""
    return Unavailable(
        "busy",
        "As many uploads as this service checks at once are being checked, and as many as may wait do.",
        "Send the upload again later; Retry-After says when.",
        retry_after=10,
    )


def files_busy() -> Unavailable:
    """Return the refusal of a request that waited too long for a file."""
    return Unavailable(
        "busy", "The storage is busy with other files.", "Ask again later; Retry-After says when.", retry_after=10
    )


def database_busy() -> Unavailable:
    """Return the refusal of a request that would wait too long for the database. Nothing was changed."""
    return Unavailable(
        "database_busy",
        "The database is busy: no connection, or no lock, was to be had in time.",
        "Ask again; Retry-After says when. A POST /v1/jobs is safe to repeat under an Idempotency-Key.",
        retry_after=2,
    )
