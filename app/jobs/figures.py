"""What operators watch and only rows know: queues, workers, counts of all that happened, bytes that are kept."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy.orm import Session

from app.database import clock
from app.jobs import mlflow_runs, repository, tallies
from app.jobs.mlflow_runs import Waiting
from app.jobs.queries import count_by_state
from app.jobs.status import JobState
from app.jobs.tallies import DEVICES, Sums
from app.jobs.workers import SEEN_SECONDS, live_sandbox


@dataclass(frozen=True)
class Queue:
    """How many jobs wait for a device, for how many seconds the one that has waited longest, and how many it has."""

    jobs: int = 0
    oldest_seconds: float = 0.0
    running: int = 0


@dataclass(frozen=True)
class Crew:
    """Workers of one device and version: how many live, how many fell silent, seconds since one was seen."""

    live: int
    silent: int
    seen_seconds: float


@dataclass(frozen=True)
class Figures:
    """All of them at one moment; a crew is known by device and version."""

    sandbox: Mapping[str, bool]
    jobs: Mapping[JobState, int]
    queues: Mapping[str, Queue]
    crews: Mapping[tuple[str, str], Crew]
    sums: Sums
    mlflow: Waiting


def figures(session: Session) -> Figures:
    """Return what operators watch."""
    at = clock(session)
    return Figures(
        *(live_sandbox(session), count_by_state(session), _queues(session, at), _crews(session, at)),
        sums=tallies.sums(session),
        mlflow=mlflow_runs.waiting(session),
    )


def stored_bytes(session: Session) -> dict[str, int]:
    """Return the bytes that rows name, by what they are; equal content is stored once and counted for each row."""
    return repository.stored_bytes(session)


def _queues(session: Session, at: datetime) -> dict[str, Queue]:
    running = repository.running(session)
    queues = {device: Queue(running=running.get(device, 0)) for device in DEVICES}
    for device, jobs, oldest in repository.queues(session):
        queues[device] = Queue(jobs, _seconds(at, oldest), running.get(device, 0))
    return queues


def _crews(session: Session, at: datetime) -> dict[tuple[str, str], Crew]:
    seen: defaultdict[tuple[str, str], list[datetime]] = defaultdict(list)
    for device, version, moment in repository.workers_seen(session):
        seen[device, version].append(moment)
    since = at - timedelta(seconds=SEEN_SECONDS)
    return {
        key: Crew(
            live=sum(moment >= since for moment in moments),
            silent=sum(moment < since for moment in moments),
            seen_seconds=_seconds(at, max(moments)),
        )
        for key, moments in seen.items()
    }


def _seconds(at: datetime, since: datetime) -> float:
    return max((at - since).total_seconds(), 0.0)
