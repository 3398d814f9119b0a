"""Workers, as they announce themselves: name, device, layers of the sandbox."""

from collections.abc import Mapping
from datetime import timedelta

from sqlalchemy.orm import Session

from app import VERSION
from app.database import begin_writing, clock
from app.jobs import repository
from app.jobs.models import Worker

SEEN_SECONDS = 30
"""A worker that has been silent for longer is considered dead."""


def announce_worker(session: Session, name: str, device: str, sandbox: Mapping[str, bool]) -> None:
    """Record that a worker is alive, and which layers of its sandbox hold."""
    begin_writing(session)
    at = clock(session)
    worker = repository.find_worker(session, name)
    if worker is None:
        worker = Worker(name=name, started_at=at)
        session.add(worker)
    worker.device, worker.version, worker.sandbox, worker.seen_at = device, VERSION, dict(sandbox), at
    session.commit()


def live_devices(session: Session) -> set[str]:
    """Return the devices that some live worker has."""
    return repository.devices_seen(session, clock(session) - timedelta(seconds=SEEN_SECONDS))


def live_sandbox(session: Session) -> dict[str, bool]:
    """Return the layers of the sandbox: one is on if it holds in every live worker."""
    sandboxes = repository.sandboxes_seen(session, clock(session) - timedelta(seconds=SEEN_SECONDS))
    layers = sorted({layer for sandbox in sandboxes for layer in sandbox})
    return {layer: all(sandbox.get(layer, False) for sandbox in sandboxes) for layer in layers}
