"""The one task: claim the job that a hint names, and carry it through."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from sqlalchemy.orm import Session, sessionmaker

from app.database import create_engine_for, create_sessions
from app.jobs import service
from app.settings import Settings, get_settings
from app.storage import open_storage
from worker import failures
from worker.self_test import sandbox_of
from worker.supervisor import Workshop, record, supervise

log = logging.getLogger(__name__)
current_job: ContextVar[str] = ContextVar("current_job", default="-")


class JobIdFilter(logging.Filter):
    """Binds the job's id to every line that is logged while it is worked on."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.job_id = current_job.get()
        return True


def run_job(job_id: str, worker: str) -> None:
    """Do the job if it is still to be done. A second hint for the same job finds nothing to claim."""
    current_job.set(job_id)
    settings = get_settings()
    with database(settings) as sessions:
        with sessions() as session:
            claim = service.claim(session, job_id, worker)
        if claim is None:
            log.info("nothing to claim")
            return
        storage = open_storage(settings.storage_url)
        workshop = Workshop(sessions, storage, settings.scratch_dir, settings.job_seconds, sandbox_of(settings))
        try:
            supervise(claim, workshop)
        except SystemExit:
            record(workshop, lambda session: service.finish_failed(session, claim, failures.worker_stopped(), []))
            raise
        except Exception:
            log.exception("the job could not be carried through")
            record(workshop, lambda session: service.finish_failed(session, claim, failures.internal_error(), []))


@contextmanager
def database(settings: Settings) -> Iterator[sessionmaker[Session]]:
    """Sessions of an engine of its own, closed afterwards: connections must never be shared across a fork."""
    engine = create_engine_for(settings)
    try:
        yield create_sessions(engine)
    finally:
        engine.dispose()
