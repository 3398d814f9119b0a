"""Works on uploads that are here as a whole: one task for each, in this process, whoever waits for it or goes away.

The request that brought the last byte begins the task. What a killed process left, and what had to wait, is found by
`looking`, a loop in every process of the API.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta

from app.accounts.caller import called_by
from app.accounts.quotas import quotas_of
from app.api.dependencies import Services
from app.api.fetching import fetch_parts
from app.api.outages import DATABASE_REFUSALS, storage_away
from app.api.uploads import blob_writer, storage_full
from app.catalog.service import Examined, Upload
from app.database import trouble_of
from app.errors import ServiceError, Unavailable
from app.imports import SOURCE_AWAY
from app.intake.confined import Stop, Stopped
from app.jobs.usage import check_bytes
from app.room import NO_ROOM
from app.storage import BlobDamaged
from app.uploads import checking
from app.uploads.checking import Claimed
from app.uploads.status import UploadState

PAUSE = timedelta(seconds=10)
"""Before a check is tried again for which there was no gate, no room or no database."""

CLOSE_SECONDS = 5.0
"""How long the end of a process waits for its tasks to end; their leases run out then."""

log = logging.getLogger(__name__)


class Checks:
    """The tasks of a process. Used on the event loop's thread alone."""

    def __init__(self) -> None:
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._fetching: set[str] = set()
        self._stops: set[Stop] = set()
        self._closed = False

    def start(self, services: Services, upload_id: str) -> "asyncio.Task[None]":
        """Return the task that works on an upload; it ends without an outcome where that is not possible now."""
        task = self._tasks.get(upload_id)
        if task is None:
            task = asyncio.create_task(self._work(services, upload_id))
            self._tasks[upload_id] = task
            task.add_done_callback(lambda _: self._tasks.pop(upload_id, None))
        return task

    @asynccontextmanager
    async def looking(self, services_now: Callable[[], Services]) -> AsyncIterator[None]:
        """Look for uploads that wait for a process to work on them, while the block runs."""
        loop = asyncio.create_task(self._look_again_and_again(services_now))
        try:
            yield
        finally:
            loop.cancel()

    async def close(self) -> None:
        """End all work; what it was about, another process may begin again at once."""
        self._closed = True
        for stop in self._stops:
            stop.stop()
        if self._tasks:
            await asyncio.wait(self._tasks.values(), timeout=CLOSE_SECONDS)

    async def _look_again_and_again(self, services_now: Callable[[], Services]) -> None:
        while True:
            services = services_now()
            try:
                checks = services.admission.gates.at_once - len(self._tasks.keys() - self._fetching)
                fetches = services.admission.imports.at_once - len(self._fetching)
                for upload_id in await services.admission.reading.run(_to_do, services, checks, fetches):
                    self.start(services, upload_id)
            except Exception:
                log.warning("could not look for uploads to work on, trying again", exc_info=True)
            await asyncio.sleep(services.settings.reconcile_seconds)

    async def _work(self, services: Services, upload_id: str) -> None:
        try:
            claimed = await services.admission.writing.run(_claim, services, upload_id)
            if claimed is not None:
                with called_by(claimed.caller):
                    await self._check(services, claimed)
        except Exception:
            log.warning("%s: not checked now, it is tried again", upload_id, exc_info=True)

    async def _check(self, services: Services, claimed: Claimed) -> None:
        """Bring a claimed upload to its outcome, or give it back."""
        stop = Stop()
        self._stops.add(stop)
        keeping = asyncio.create_task(_keep_claim(services, claimed, stop))
        if self._closed:
            stop.stop()
        try:
            if not claimed.fetched:
                self._fetching.add(claimed.id)
                claimed = await fetch_parts(services, claimed, stop)
                self._fetching.discard(claimed.id)
            await _pass_gate(services, claimed, stop)
        except Stopped:
            await _postpone(services, claimed, timedelta(0), None)
        except Unavailable as reason:
            if reason.code == SOURCE_AWAY:
                await services.admission.writing.run(_fail, services, claimed, reason)
            else:
                await _postpone(services, claimed, PAUSE, reason)
        except ServiceError as refusal:
            await services.admission.writing.run(_refuse, services, claimed, refusal)
        except Exception as error:
            passing = _passing(error)
            log.exception("%s: the check failed", claimed.id)
            if passing:
                await _postpone(services, claimed, PAUSE, passing)
            else:
                await services.admission.writing.run(_fail, services, claimed, _fault())
        finally:
            keeping.cancel()
            self._fetching.discard(claimed.id)
            self._stops.discard(stop)


def _passing(error: Exception) -> ServiceError | None:
    """Return what an upload waits for: room, the storage or the database; None if the fault would stay."""
    if isinstance(error, OSError) and not isinstance(error, FileNotFoundError | BlobDamaged):
        return storage_full() if error.errno in NO_ROOM else storage_away()
    trouble = trouble_of(error)
    return DATABASE_REFUSALS[trouble]() if trouble else None


async def _pass_gate(services: Services, claimed: Claimed, stop: Stop) -> None:
    """Put the parts together, check them, and record what became of them. Raises ServiceError, Stopped, OSError."""
    admission, storage = services.admission, services.storage
    async with AsyncExitStack() as stack:
        received = await stack.enter_async_context(blob_writer(storage, admission.files))
        fresh = await stack.enter_async_context(blob_writer(storage, admission.files))
        upload = Upload(received, fresh, services.limits, claimed.filename, stop)
        examined = await admission.gates.run(checking.examine, storage, claimed, upload)
        await admission.writing.run(_succeed, services, claimed, examined)


async def _keep_claim(services: Services, claimed: Claimed, stop: Stop) -> None:
    """Renew the lease again and again; stop the check where it was lost."""
    while True:
        await asyncio.sleep(services.settings.lease_seconds / 4)
        try:
            held = await services.admission.writing.run(_renew, services, claimed)
        except Exception:
            log.warning("%s: the lease could not be renewed", claimed.id, exc_info=True)
            continue
        if not held:
            stop.stop()
            return


async def _postpone(services: Services, claimed: Claimed, pause: timedelta, reason: ServiceError | None) -> None:
    log.info("%s: the check has to wait: %s", claimed.id, reason.code if reason else "this process stops")
    await services.admission.writing.run(_give_back, services, claimed, pause, reason)


def _to_do(services: Services, checks: int, fetches: int) -> list[str]:
    with services.all_projects() as session:
        waiting = checking.to_do(session, UploadState.CHECKING, checks)
        return [*waiting, *checking.to_do(session, UploadState.FETCHING, fetches)]


def _claim(services: Services, upload_id: str) -> Claimed | None:
    with services.all_projects() as session:
        return checking.claim(session, upload_id, timedelta(seconds=services.settings.lease_seconds))


def _renew(services: Services, claimed: Claimed) -> bool:
    with services.sessions() as session:
        return checking.renew(session, claimed, timedelta(seconds=services.settings.lease_seconds))


def _give_back(services: Services, claimed: Claimed, pause: timedelta, reason: ServiceError | None) -> None:
    with services.sessions() as session:
        checking.postpone(session, claimed, pause, reason)


def _succeed(services: Services, claimed: Claimed, examined: Examined) -> None:
    with services.sessions() as session:
        quotas = quotas_of(session, services.settings, claimed.caller.project)
        # The parts count already, and go.
        check_bytes(session, quotas, examined.columns["stored_bytes"] - claimed.received_bytes)
        result = checking.succeed(session, services.storage, claimed, examined)
    log.info("%s: became %s", claimed.id, result)


def _refuse(services: Services, claimed: Claimed, refusal: ServiceError) -> None:
    with services.sessions() as session:
        checking.refuse(session, services.storage, claimed, refusal)
    log.info("%s: refused with %s", claimed.id, refusal.code)


def _fail(services: Services, claimed: Claimed, reason: ServiceError) -> None:
    with services.sessions() as session:
        checking.fail(session, claimed, reason, PAUSE)


def _fault() -> Unavailable:
    return Unavailable(
        "upload_check_failed",
        "The check of the upload failed for a reason that is the service's. The bytes are here.",
        "Ask again: send a part without bytes at the end of the upload. If it stays so, tell the operator its id.",
    )
