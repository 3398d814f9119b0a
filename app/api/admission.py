"""Admission: how much of each kind of work this process does at once, how much may wait, and when it is refused.

Each kind has places of its own, so that no kind starves another: bodies being received, gates, reads and writes of
the database, what is read or checked whole, reads and writes of files. Health checks need none of them.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Protocol, TypeVar

from anyio import CancelScope, CapacityLimiter, to_thread

from app.errors import Unavailable
from app.settings import Settings

BODIES = 256
"""Uploads that are received at once: each holds a file and less than 1 MiB of memory, however slow its client is."""
DOCUMENT_BYTES = 2**26
"""Of large JSON bodies that are received at once, in memory."""
MOST_DOCUMENTS = 64
BODY_QUEUE = 256
BODY_SECONDS = 5.0
"""How long a body waits for the place of a slower one."""
SLOW_BYTES = 2**16
"""Of a body in a second: one that comes faster keeps its place."""
END_AT_ONCE = 32
"""Slow bodies that give way to a new one: others wait for a place before it does."""
WHOLE = 1
"""Models and datasets that are read whole at once: Python computes one at a time, and others wait as long for it."""
IMPORTS = 4
"""Files that are fetched from elsewhere at once; more wait in their rows."""
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

    @property
    def are_taken(self) -> bool:
        """Whether there is no free place."""
        return self._free.locked()

    def check(self) -> None:
        """Raise Unavailable where there is neither a place nor room in the queue."""
        if self.are_taken and self.waiting >= self._queue:
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


class Coming(Protocol):
    """A body that is being received."""

    @property
    def rate(self) -> float | None:
        """Bytes in a second; None where it has come, or has only begun."""

    def give_way(self) -> None:
        """Refuse the rest."""


class BodyPlaces(Places):
    """Places for bodies that come. Where all are taken, the slowest give way: nobody holds one by sending little."""

    def __init__(self, at_once: int, refusal: Callable[[], Unavailable]) -> None:
        super().__init__(at_once, BODY_QUEUE, BODY_SECONDS, refusal)
        self._bodies: set[Coming] = set()

    @asynccontextmanager
    async def taken_by(self, body: Coming) -> AsyncIterator[None]:
        """Hold a place for a body while the block runs. Raises Unavailable."""
        if self.are_taken:
            self._end_slow()
        async with self.taken():
            self._bodies.add(body)
            try:
                yield
            finally:
                self._bodies.discard(body)

    def _end_slow(self) -> None:
        slow = [(rate, body) for body in self._bodies if (rate := body.rate) is not None and rate < SLOW_BYTES]
        for _, body in sorted(slow, key=lambda pair: pair[0])[:END_AT_ONCE]:
            self._bodies.discard(body)
            body.give_way()


@dataclass(frozen=True)
class Admission:
    """The places of a process."""

    bodies: BodyPlaces
    documents: BodyPlaces
    """JSON bodies that are not small."""
    gates: Places
    imports: Places
    files: Places
    whole: Places
    """Uploads that are read with all their layers or tensors: an answer, or the check of a recipe."""
    reading: Places
    writing: Places
    """Of the database's connections: who waits for the lock of a writer keeps nobody from reading."""


def admission_for(settings: Settings, gates: int) -> Admission:
    """Return the places that the settings give, and so many gates."""
    # SQLite lets one write at a time, and who else waits for its lock is served in no order.
    writing = 1 if settings.database_url.startswith("sqlite") else settings.database_connections // 2
    database = partial(Places, queue=settings.database_queue, seconds=DATABASE_SECONDS, refusal=database_busy)
    return Admission(
        bodies=BodyPlaces(BODIES, bodies_busy),
        documents=BodyPlaces(max(1, min(MOST_DOCUMENTS, DOCUMENT_BYTES // settings.max_json_bytes)), bodies_busy),
        gates=Places(gates, settings.gate_queue, GATE_SECONDS, uploads_busy),
        imports=Places(IMPORTS, 0, FILE_SECONDS, files_busy),
        files=Places(FILES, BODIES, FILE_SECONDS, files_busy),
        whole=Places(WHOLE, settings.database_queue, DATABASE_SECONDS, whole_busy),
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


def bodies_busy() -> Unavailable:
    """Return the refusal of a body that finds no place."""
    return Unavailable(
        "busy",
        "As many bodies as this service receives at once are being received.",
        "Send the request again later; Retry-After says when.",
        retry_after=10,
    )


def whole_busy() -> Unavailable:
    """Return the refusal of a request that reads a model or a dataset whole."""
    return Unavailable(
        "busy",
        "As many models and datasets as may be read at once are being read, and as many as may wait do.",
        "Ask again; Retry-After says when. A POST /v1/jobs is safe to repeat under an Idempotency-Key.",
        retry_after=5,
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
