"""Runs one claimed job: fetch its blobs, run the child, publish its files, record the end once.

Each end is recorded in one transaction, which takes effect only while the claim's token is the job's.
"""

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from math import inf
from pathlib import Path

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session, sessionmaker

from app import logs, traces
from app.jobs import claims, endings
from app.jobs.claims import Claim, ClaimStatus
from app.jobs.endings import Measured, Product
from app.jobs.taxonomy import FailureClass, category_of
from app.settings import Settings
from app.storage import Storage
from sandbox.policy import Sandbox
from worker import failures
from worker.child.monitor import ChildExit, watch
from worker.child.prestarted import PrestartedChild, PrestartedChildren
from worker.heartbeat import Heartbeat
from worker.outputs.checkpoints import CheckpointKeeper, fetch_checkpoints, key_of
from worker.outputs.publish import OutputError, outputs, read_failure, read_report, read_result, store, store_manifest
from zeropoint.schema.failures import describe_failure
from zeropoint.schema.formats import SourceFormat
from zeropoint.schema.job import EXIT_FAILED, EXIT_OK, JOB_FILE, OUT_FOLDER, REPORT_FILE, Failure, JobSpec, Progress
from zeropoint.schema.report import Report

FLUSH_SECONDS = 2.0
FIRST_PAUSE = 0.5
LONGEST_PAUSE = 8.0
STORAGE_TRIES = 450
"""For an hour, as for a database: what a job has computed is not thrown away because its storage restarts."""
RECORD_SECONDS = 3600.0
"""How long a finished job waits for a database that is away; its stored files are kept for longer."""

MODEL_FILES: Mapping[SourceFormat, str] = {
    "pt2": "model.pt2",
    "huggingface": "model.tar",
    "safetensors": "model.safetensors",
}
"""What the model is called in a job's folder."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class WorkerContext:
    """What a worker needs to run a job."""

    sessions: sessionmaker[Session]
    storage: Storage
    sandbox: Sandbox
    prestarted: PrestartedChildren
    settings: Settings


def supervise(claim: Claim, context: WorkerContext) -> None:
    """Run a claimed job until its end is recorded. Raises OSError when the storage can't be read or written."""
    with (
        Heartbeat(context.sessions, claim, context.settings.lease_seconds) as heartbeat,
        _process(claim, context) as prestarted,
    ):
        folder = prestarted.folder.path
        storage = context.storage
        context = replace(context, storage=storage.patient(partial(_wait_for_storage, heartbeat)))
        # 1. Inputs, checked against their digests on the way, and what earlier attempts left.
        key = key_of(claim)
        with traces.span("fetching"):
            _fetch(claim, key, context, folder, heartbeat)
        keeper = CheckpointKeeper(claim, key, storage, folder, heartbeat)  # who waits watches no child
        # 2. The child, watched; it may be stopped because the row says so.
        prestarted.child.go()
        log.info("attempt %s: child %s goes", claim.attempt, prestarted.child.pid)
        child_exit = watch(prestarted, claim, context.sandbox, heartbeat, keeper.look)
        for phase in child_exit.phases:
            traces.past(phase.phase, phase.began, phase.seconds, ended=phase.ended)
        # 3. The end, recorded once.
        _conclude(claim, context, folder, child_exit, heartbeat)


def record(context: WorkerContext, end: Callable[[Session], bool]) -> None:
    """Record the end, again and again while the database is away; the token makes a second write harmless."""
    deadline, pause = time.monotonic() + RECORD_SECONDS, FIRST_PAUSE
    while True:
        try:
            with context.sessions() as session:
                recorded = end(session)
        except SQLAlchemyError:
            if time.monotonic() > deadline:
                raise
            log.warning("the database does not answer, trying again in %s s", pause)
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)
        else:
            if not recorded:
                log.warning(
                    "nothing was recorded: the claim was lost, or an answer was, and this end is recorded already"
                )
            return


def _wait_for_storage(heartbeat: Heartbeat, tries: int) -> bool:
    """Wait for a storage that is away, for about STORAGE_TRIES × LONGEST_PAUSE, while the job is still to be done."""
    if tries > STORAGE_TRIES or heartbeat.claim_status is not ClaimStatus.GO_ON:
        return False
    log.warning("the storage is away, trying again")
    time.sleep(min(FIRST_PAUSE * 2 ** (tries - 1), LONGEST_PAUSE))
    return True


@contextmanager
def _process(claim: Claim, context: WorkerContext) -> Iterator[PrestartedChild]:
    """Yield a process in a folder of this claim alone: a lost worker can damage only its own folder."""
    prestarted = context.prestarted.claim()
    try:
        prestarted.folder.move(context.settings.scratch_dir.resolve() / claim.job_id / str(claim.token))
        yield prestarted
    finally:
        prestarted.end()


def _fetch(claim: Claim, key: str, context: WorkerContext, folder: Path, heartbeat: Heartbeat) -> None:
    inputs = {
        "model": (MODEL_FILES[claim.model_format], claim.model),
        "dataset": ("dataset.safetensors", claim.dataset),
        "evaluation_dataset": ("evaluation_dataset.safetensors", claim.evaluation_dataset),
    }
    spec: dict[str, object] = {
        "format": claim.model_format,
        "device": claim.device,
        **claim.work.spec(),
        "checkpoint_key": key,
        "checkpoint_seconds": context.settings.checkpoint_seconds,
        "compile_seconds": context.settings.compile_seconds,
    }
    for role, (name, blob) in inputs.items():
        if blob:
            context.storage.fetch(blob.sha256, folder / name)
            spec[role] = name
    fetch_checkpoints(key, context.sessions, context.storage, folder, heartbeat)
    (folder / JOB_FILE).write_text(JobSpec.model_validate(spec).model_dump_json())


def _conclude(claim: Claim, context: WorkerContext, folder: Path, child_exit: ChildExit, heartbeat: Heartbeat) -> None:
    recipe, phase = claim.work.recipe, child_exit.phase
    if child_exit.claim_status is ClaimStatus.LOST:
        log.warning("the claim was lost, nothing is recorded")
        return
    heartbeat.flush(FLUSH_SECONDS)
    if child_exit.claim_status is ClaimStatus.CANCEL:
        record(context, partial(endings.stop, claim=claim, measured=child_exit.measured))
    elif child_exit.excess:
        _fail(claim, context, child_exit, failures.took_too_much(child_exit.excess, phase, recipe))
    elif child_exit.overdue:
        _fail(
            claim,
            context,
            child_exit,
            failures.took_too_long(claim.running_seconds, phase, recipe),
        )
    elif child_exit.exit_code == EXIT_OK:
        _succeed(claim, context, folder, child_exit, heartbeat)
    elif child_exit.exit_code == EXIT_FAILED:
        _fail_as_reported(claim, context, folder, child_exit)
    else:
        failure = failures.died(child_exit.exit_code, phase, recipe, child_exit.evidence, claim.attempt)
        _fail(claim, context, child_exit, failure)


def _succeed(claim: Claim, context: WorkerContext, folder: Path, child_exit: ChildExit, heartbeat: Heartbeat) -> None:
    try:
        files = outputs(folder, claim)
        result = read_result(folder, claim)
    except OutputError as error:
        _fail(claim, context, child_exit, describe_failure("invalid_output", child_exit.phase), because=error)
        return

    def report(done: int) -> None:
        progress = Progress(phase="publishing", done=done, total=len(files) + 1)
        heartbeat.report(partial(claims.report_progress, claim=claim, progress=progress, eta_seconds=None))

    began = time.monotonic()
    report(0)
    with traces.span("publishing", files=len(files)):
        products = store(files, context.storage)
        report(len(files))
        products.append(store_manifest(claim, result, products, context.storage))
    heartbeat.flush(FLUSH_SECONDS)
    peak = max(child_exit.peak_memory_bytes, result.peak_memory_bytes)
    verdict, sqnr_db = (result.verdict, _sqnr_db(result)) if isinstance(result, Report) else (None, None)
    measured = Measured(peak, {**child_exit.measured.seconds, "publishing": time.monotonic() - began}, sqnr_db)
    record(context, partial(endings.succeed, claim=claim, verdict=verdict, products=products, measured=measured))


def _sqnr_db(report: Report) -> float | None:
    return inf if report.summary.exact else report.summary.sqnr_db


def _fail_as_reported(claim: Claim, context: WorkerContext, folder: Path, child_exit: ChildExit) -> None:
    """Record the failure that the child reported, with its report if it left one."""
    try:
        failure = read_failure(folder)
    except OutputError as error:
        _fail(claim, context, child_exit, describe_failure("invalid_output", child_exit.phase), because=error)
        return
    products, sqnr_db = [], None
    with suppress(OutputError):
        sqnr_db = _sqnr_db(read_report(folder))
        products = store({REPORT_FILE: folder / OUT_FOLDER / REPORT_FILE}, context.storage)
    failure = failure.model_copy(update={"phase": failure.phase or child_exit.phase})
    _fail(claim, context, child_exit, failure, products, sqnr_db=sqnr_db)


def _fail(
    claim: Claim,
    context: WorkerContext,
    child_exit: ChildExit,
    failure: Failure,
    products: Sequence[Product] = (),
    *,
    because: OutputError | None = None,
    sqnr_db: float | None = None,
) -> None:
    if category_of(failure.code) in (FailureClass.SERVICE, FailureClass.TRANSIENT):  # else it says nothing of us
        told = logs.fields(code=failure.code, because=because, last_words=child_exit.last_words)
        log.error("the job's program failed", extra=told)
    measured = replace(child_exit.measured, sqnr_db=sqnr_db)
    record(context, partial(endings.fail, claim=claim, failure=failure, products=products, measured=measured))
