"""The one task: claim the next job and run it to its end."""

import logging
from contextvars import ContextVar
from functools import partial

from sqlalchemy.exc import SQLAlchemyError

from app.database import connected
from app.jobs import claims, endings
from app.jobs.claims import Claim
from app.room import NO_ROOM
from app.settings import Settings
from app.storage import BlobDamaged, open_storage
from worker.child.prestarted import PrestartedChildren
from worker.self_test import sandbox_of
from worker.supervisor import WorkerContext, record, supervise
from zeropoint.schema.failures import describe_failure
from zeropoint.schema.job import Failure

log = logging.getLogger(__name__)
current_job: ContextVar[str] = ContextVar("current_job", default="-")


class JobIdFilter(logging.Filter):
    """Binds the job's id to every line that is logged while it is worked on."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.job_id = current_job.get()
        return True


def look(worker: str, settings: Settings, prestarted: PrestartedChildren) -> None:
    """Run the next job if there is one. A hint too many finds nothing to claim."""
    try:
        storage = open_storage(settings.storage_url)
    except OSError:
        # Before the claim: a worker without its storage can run no job, and must not use up attempts.
        log.exception("the storage can't be opened: jobs are left to others")
        return
    with connected(settings) as sessions:
        try:
            with sessions() as session:
                claim = claims.claim(session, settings.worker_device, worker, settings.lease_seconds)
        except SQLAlchemyError:
            log.warning("the database does not answer: what waits gets another hint")
            return
        if claim is None:
            log.info("nothing to claim")
            return
        _run_to_end(claim, WorkerContext(sessions, storage, sandbox_of(settings), prestarted, settings))


def _run_to_end(claim: Claim, context: WorkerContext) -> None:
    current_job.set(claim.job_id)
    try:
        supervise(claim, context)
    except SystemExit:
        log.info("shutting down, the job is released")
        record(context, partial(endings.release, claim=claim))
        raise
    except Exception as error:
        log.exception("the job could not be run to its end")
        record(context, partial(endings.fail, claim=claim, failure=_failure_of(error)))
    finally:
        current_job.set("-")


def _failure_of(error: Exception) -> Failure:
    """Return the job's failure for an error of the worker."""
    if isinstance(error, BlobDamaged):
        return describe_failure("blob_missing")
    if isinstance(error, OSError):
        return describe_failure("storage_full" if error.errno in NO_ROOM else "storage_unavailable")
    return describe_failure("internal_error")
