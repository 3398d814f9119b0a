"""/healthz and /readyz."""

import logging
from collections.abc import Callable

from fastapi import APIRouter
from sqlalchemy.exc import SQLAlchemyError

from app.api.dependencies import Services, ServicesDep
from app.api.openapi import problems
from app.api.schemas import Readiness
from app.database import schema_is_current
from app.errors import Fault, Unavailable
from app.jobs.queue import broker_answers
from app.jobs.workers import live_devices, live_sandbox

log = logging.getLogger(__name__)

router = APIRouter(tags=["health"])


@router.get("/healthz")
def alive() -> dict[str, str]:
    """Say that the process answers."""
    return {"status": "ok"}


@router.get("/readyz", responses=problems(503))
def ready(services: ServicesDep) -> Readiness:
    """Say whether jobs can be accepted and run: database, broker, storage, and at least one live worker.

    `sandbox` names the layers that every live worker tried at its start, and whether they hold in all of them.
    """
    faults = [Fault(f"/{part}", detail) for part, check in PARTS.items() if (detail := check(services))]
    if faults:
        raise Unavailable(
            "not_ready",
            "; ".join(f"{fault.pointer[1:]}: {fault.detail}" for fault in faults) + ".",
            "Start or repair what errors names.",
            faults,
        )
    with services.sessions() as session:
        return Readiness(status="ready", sandbox=live_sandbox(session))


def _database(services: Services) -> str | None:
    try:
        with services.engine.connect() as connection:
            return None if schema_is_current(connection) else "migrations are missing; run zeropoint migrate"
    except SQLAlchemyError:
        return _failed("the database does not answer")


def _broker(services: Services) -> str | None:
    return None if broker_answers(services.celery) else "the broker does not answer"


def _storage(services: Services) -> str | None:
    try:
        services.storage.check()
    except OSError:
        return _failed("blobs can't be written")
    return None


def _worker(services: Services) -> str | None:
    try:
        with services.sessions() as session:
            return None if live_devices(session) else "no worker has been seen in the last 30 seconds"
    except SQLAlchemyError:
        return _failed("the database that lists the workers does not answer")


def _failed(detail: str) -> str:
    log.warning(detail, exc_info=True)
    return detail


PARTS: dict[str, Callable[[Services], str | None]] = {
    "database": _database,
    "broker": _broker,
    "storage": _storage,
    "worker": _worker,
}
