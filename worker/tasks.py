"""The one task: claim the next job and run it to its end."""

import logging
import time
from functools import partial

from sqlalchemy.exc import SQLAlchemyError

from app import logs, traces
from app.database import connected
from app.errors import NotFound
from app.jobs import claims, endings, queries
from app.jobs.claims import Claim
from app.jobs.status import TERMINAL
from app.jobs.taxonomy import FailureClass, category_of
from app.room import NO_ROOM
from app.settings import Settings
from app.storage import BlobDamaged, StorageAway, open_storage
from worker.child.prestarted import PrestartedChildren
from worker.self_test import sandbox_of
from worker.supervisor import WorkerContext, record, supervise
from zeropoint.schema.failures import describe_failure
from zeropoint.schema.job import Failure

LEVELS = {FailureClass.SERVICE: logging.ERROR, FailureClass.TRANSIENT: logging.WARNING}

log = logging.getLogger(__name__)


def look(worker: str, settings: Settings, prestarted: PrestartedChildren) -> None:
    """Run the next job if there is one. A hint too many finds nothing to claim."""
    try:
        storage = open_storage(settings)
        storage.require_answer()
    except StorageAway as error:
        log.warning("the storage is away, jobs wait for it: %s", error)
        return
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
    ids = {"job_id": claim.job_id, "request_id": claim.request_id, "project": claim.project}
    ids |= {"owner": claim.owner, "model_id": claim.model_id}
    began, waited = time.monotonic(), claim.waited_seconds
    traces.past("queued", began - waited, waited, parent=claim.trace, **ids)
    try:
        with (
            logs.about(**ids, attempt=claim.attempt),
            traces.span("attempt", parent=claim.trace, kind="consumer", **ids, attempt=claim.attempt) as span,
        ):
            logs.also(trace_id=traces.trace_id())
            try:
                _supervise(claim, context)
            finally:
                _log_end(claim, context, time.monotonic() - began, span)
    finally:
        traces.send()


def _supervise(claim: Claim, context: WorkerContext) -> None:
    try:
        supervise(claim, context)
    except SystemExit:
        log.info("shutting down, the job is released")
        record(context, partial(endings.release, claim=claim))
        raise
    except Exception as error:
        log.exception("the job could not be run to its end")
        record(context, partial(endings.fail, claim=claim, failure=_failure_of(error)))


def _log_end(claim: Claim, context: WorkerContext, seconds: float, span: traces.Span) -> None:
    """Log one line: how the attempt ended, as the row has it. A user's mistake is no error of ours."""
    try:
        with context.sessions() as session:
            end = queries.outcome(session, claim.job_id)
    except (SQLAlchemyError, NotFound):
        log.warning("the attempt ended, and the database does not say how")
        return
    span.note(device=claim.device, state=end.state, code=end.code, verdict=end.verdict)
    if end.code and category_of(end.code) in LEVELS:
        span.fail(end.code)
    level = LEVELS.get(category_of(end.code), logging.INFO) if end.code else logging.INFO
    told = logs.fields(state=end.state, code=end.code, verdict=end.verdict, seconds=round(seconds, 3))
    log.log(level, "the job ended" if end.state in TERMINAL else "the attempt ended", extra=told)


def _failure_of(error: Exception) -> Failure:
    """Return the job's failure for an error of the worker."""
    if isinstance(error, BlobDamaged):
        return describe_failure("blob_missing")
    if isinstance(error, OSError):
        return describe_failure("storage_full" if error.errno in NO_ROOM else "storage_unavailable")
    return describe_failure("internal_error")
