"""Probes: checks that answer in time, whatever they look at.

A check runs in a thread that nothing else uses, once at a time, for all who ask meanwhile and for a moment after. One
that hangs holds up nobody, and is not started again before it has ended.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar

from anyio import CapacityLimiter, to_thread
from celery import Celery
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session, sessionmaker

from app.accounts.oidc import Provider
from app.database import schema_is_current
from app.jobs.queue import broker_answers
from app.jobs.workers import live_devices, live_sandbox
from app.storage import Storage, StorageAway

ANSWER_SECONDS = 0.3
"""How long a probe waits for its check."""
FRESH_SECONDS = 1.0
"""How long what a check found is given to others who ask."""
KNOWN_SECONDS = 5.0
"""How long it is given while the next check takes too long: a process that is busy for a moment is no less ready."""

LATE = "it did not answer in time"

T = TypeVar("T")

log = logging.getLogger(__name__)


class Late(Exception):
    """The check did not answer in time."""


class Probe(Generic[T]):
    """One check, and what it found last."""

    def __init__(self, check: Callable[[], T]) -> None:
        self._check = check
        self._thread = CapacityLimiter(1)
        self._running: asyncio.Task[T] | None = None
        self._began = 0.0
        self._last: tuple[float, T] | None = None

    async def found(self) -> T:
        """Return what the check finds, or found lately. Raises Late, and what the check raises."""
        if self._running is None or (self._running.done() and time.monotonic() - self._began > FRESH_SECONDS):
            self._began = time.monotonic()
            self._running = asyncio.get_running_loop().create_task(self._run())
            self._running.add_done_callback(_retrieve)
        running = self._running  # others may begin the next check before this one is looked at
        ended, _ = await asyncio.wait({running}, timeout=ANSWER_SECONDS)
        if ended:
            return running.result()
        if self._last is None or time.monotonic() - self._last[0] > KNOWN_SECONDS:
            raise Late
        return self._last[1]

    async def _run(self) -> T:
        began = time.monotonic()
        found = await to_thread.run_sync(self._check, limiter=self._thread)
        self._last = began, found
        return found


def _retrieve(ended: asyncio.Task[object]) -> None:
    """Have looked at the exception: where everyone left before it came, nobody will."""
    if not ended.cancelled():
        ended.exception()


@dataclass(frozen=True)
class Workers:
    """What is wrong with the live workers, if anything is, and which layers of the sandbox hold in all of them."""

    fault: str | None
    sandbox: Mapping[str, bool]


@dataclass(frozen=True)
class Health:
    """What is wrong, by part, what is away that few need, and the sandbox of the live workers."""

    faults: Mapping[str, str]
    away: Mapping[str, str]
    sandbox: Mapping[str, bool]


@dataclass(frozen=True)
class Probes:
    """Everything that health checks look at."""

    database: Probe[str | None]
    broker: Probe[str | None]
    storage: Probe[str | None]
    workers: Probe[Workers]
    provider: Probe[str | None]

    async def look(self) -> Health:
        """Look at all parts at once."""
        database, broker, storage, workers, provider = await asyncio.gather(
            _in_time(self.database, LATE),
            _in_time(self.broker, LATE),
            _in_time(self.storage, LATE),
            _in_time(self.workers, Workers(LATE, {})),
            _in_time(self.provider, LATE),
        )
        found = {"database": database, "broker": broker, "storage": storage, "worker": workers.fault}
        faults = {part: fault for part, fault in found.items() if fault}
        # Not a fault: keys hold without it.
        return Health(faults, {"identity_provider": provider} if provider else {}, workers.sandbox)


def probes_for(
    engine: Engine, sessions: sessionmaker[Session], storage: Storage, celery: Celery, provider: Provider | None
) -> Probes:
    """Return the probes of a process with these parts."""
    return Probes(
        database=Probe(partial(check_database, engine)),
        broker=Probe(partial(check_broker, celery)),
        storage=Probe(partial(check_storage, storage)),
        workers=Probe(partial(_workers, sessions)),
        provider=Probe(partial(_provider, provider)),
    )


async def _in_time(probe: Probe[T], late: T) -> T:
    try:
        return await probe.found()
    except Late:
        return late


def check_database(engine: Engine) -> str | None:
    """Return what is wrong with the database, if anything is."""
    try:
        with engine.connect() as connection:
            return None if schema_is_current(connection) else "migrations are missing; run zeropoint migrate"
    except SQLAlchemyError:
        return _failed("the database does not answer")


def check_broker(celery: Celery) -> str | None:
    """Return what is wrong with the broker, if anything is."""
    return None if broker_answers(celery) else "the broker does not answer"


def check_storage(storage: Storage) -> str | None:
    """Return what is wrong with the storage, if anything is."""
    try:
        storage.check()
    except StorageAway as error:
        return _failed(str(error))
    except OSError:
        return _failed("blobs can't be written")
    return None


def _provider(provider: Provider | None) -> str | None:
    return provider.check() if provider else None


def _workers(sessions: sessionmaker[Session]) -> Workers:
    try:
        with sessions() as session:
            fault = None if live_devices(session) else "no worker has been seen in the last 30 seconds"
            return Workers(fault, live_sandbox(session))
    except SQLAlchemyError:
        return Workers(_failed("the database that lists the workers does not answer"), {})


def _failed(detail: str) -> str:
    log.warning(detail, exc_info=True)
    return detail
