"""Recovers lost jobs and sends missing hints: every process looks for them, one at a time.

A job whose lease ran out is queued again, or fails when no attempt is left. A job that waited too long fails. A job
that runs on any device leaves the queue of a device whose workers are gone. Then every queued job gets a hint.
"""

import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import datetime, timedelta

from celery import Celery
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from app import metrics
from app.database import begin_writing, clock, connected, try_lock
from app.jobs import repository, tallies
from app.jobs.endings import finish, may_try_again, requeue
from app.jobs.models import Job
from app.jobs.queue import BROKER_AWAY, send_hints
from app.jobs.status import EXPIRE, FAIL, STOP
from app.jobs.workers import live_devices
from app.settings import Settings
from zeropoint.schema.job import Failure

LOCK = "zeropoint.reconciler"
KEEP_CHECKPOINTS = timedelta(days=3)
KEEP_WORKERS = timedelta(days=1)
LAST_LOOK_SECONDS = 1.0
"""How long a stop waits for a look: what a process that ends leaves undone, another does."""

Wake = Callable[[], None]
"""Asks for a look now: something was queued."""

_ANY_TIME = nullcontext()

log = logging.getLogger(__name__)


@contextmanager
def reconciling(
    settings: Settings, celery: Celery, undisturbed: AbstractContextManager[object] = _ANY_TIME
) -> Iterator[Wake]:
    """Look every few seconds, and when asked to, in a thread of its own that ends with the block.

    Each look happens inside `undisturbed`, and no connection outlives it.
    """
    wake, stop = threading.Event(), threading.Event()

    def look_until_stopped() -> None:
        while not stop.is_set():
            wake.clear()
            with undisturbed:
                look(settings, celery)
            wake.wait(settings.reconcile_seconds)

    thread = threading.Thread(target=look_until_stopped, name="reconciler", daemon=True)
    thread.start()
    try:
        yield wake.set
    finally:
        stop.set()
        wake.set()
        thread.join(timeout=LAST_LOOK_SECONDS)


def look(settings: Settings, celery: Celery) -> None:
    """Recover lost jobs, then send missing hints. What a silent database or broker prevents is done next time."""
    outcome = "failed"
    try:
        with connected(settings) as sessions, sessions() as session:
            recover(session)
            due = repository.count_due(session, clock(session))
            session.rollback()
        hint(celery, due)
        outcome = "done"
        metrics.RECONCILER_LAST.set_to_current_time()
    except SQLAlchemyError:
        outcome = "database_away"
        log.warning("the database does not answer")
    except BROKER_AWAY:
        outcome = "broker_away"
        log.warning("the broker does not answer: jobs wait")
    except Exception:
        log.exception("could not look for lost jobs")
    metrics.RECONCILER_PASSES.labels(outcome).inc()


def hint(celery: Celery, due: Mapping[str, int]) -> None:
    """Let each device's workers find as many hints as there are jobs for them. Raises BROKER_AWAY."""
    for device, count in due.items():
        if sent := send_hints(celery, device, count):
            log.info("%s jobs wait for %s, sent %s hints", count, device, sent)


def recover(session: Session) -> None:
    """Recover leases, waiting times and routes, in one transaction and one process at a time."""
    begin_writing(session)
    if not try_lock(session, LOCK):
        session.rollback()
        return
    at = clock(session)
    for job in repository.lapsed(session, at):
        _recover_lost(session, job, at)
    live = live_devices(session)
    for job in repository.waited_too_long(session, at):
        _expire(session, job, at, live)
    if live:
        repository.reroute(session, live, "cuda" if "cuda" in live else "cpu")
    repository.forget_checkpoints(session, at - KEEP_CHECKPOINTS)
    repository.forget_workers(session, at - KEEP_WORKERS)
    tallies.fold(session)
    session.commit()


def _recover_lost(session: Session, job: Job, at: datetime) -> None:
    log.warning("%s: the lease of attempt %s ran out, %s was lost", job.id, job.attempts, job.worker)
    tallies.count(session, tallies.LEASES_LOST, job.device)
    if job.state in STOP.sources:
        finish(session, job.id, job.token, STOP, at)
    elif not may_try_again(job):
        finish(session, job.id, job.token, FAIL, at, error=_worker_lost(job).model_dump())
    else:
        requeue(session, job, at, "worker_lost")


def _expire(session: Session, job: Job, at: datetime, live: set[str]) -> None:
    failure = _waited_too_long(job) if job.device in live else _no_such_worker(job)
    repository.move(session, job.id, EXPIRE, job.token, {"finished_at": at, "error": failure.model_dump()})
    repository.add_event(session, job.id, "state", {"state": EXPIRE.target, "error": failure.model_dump()})


def _worker_lost(job: Job) -> Failure:
    return Failure(
        code="worker_lost",
        title="The workers were lost",
        detail=f"{job.attempts} workers, one after another, went silent while they had this job.",
        remedy="Submit the job again; if it ends so again, it may be what takes the machines down: report its id.",
    )


def _waited_too_long(job: Job) -> Failure:
    return Failure(
        code="pending_time_limit",
        title="The job waited too long",
        detail=f"No worker for {job.device} had a free slot within {job.pending_seconds} seconds.",
        remedy="Submit the job again with a higher limits.pending_seconds, or ask the operator for more workers.",
    )


def _no_such_worker(job: Job) -> Failure:
    return Failure(
        code="no_such_worker",
        title="No worker has this device",
        detail=f"The job waited {job.pending_seconds} seconds, and no live worker has {job.device}.",
        remedy='Submit the job again with "device": "auto", or ask the operator to start such a worker.',
    )
