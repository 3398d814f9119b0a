"""One claimed job from its blobs to its end: fetch, run the child, publish, record once.

Each way to end is recorded in one transaction that matches only while the claim's token still does.
"""

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session, sessionmaker

from app.jobs import claims, endings
from app.jobs.claims import Claim, Standing
from app.jobs.endings import Product
from app.settings import Settings
from app.storage import Storage
from sandbox.policy import Sandbox
from worker import failures
from worker.child.monitor import Ending, watch
from worker.child.prestarted import Spare, Spares
from worker.heartbeat import Heartbeat
from worker.outputs.checkpoints import CheckpointKeeper, fetch_checkpoints, key_of
from worker.outputs.publish import OutputError, outputs, read_failure, read_report, read_result, store, store_manifest
from zeropoint.schema.formats import SourceFormat
from zeropoint.schema.job import EXIT_FAILED, EXIT_OK, JOB_FILE, OUT_FOLDER, REPORT_FILE, Failure, JobSpec, Progress
from zeropoint.schema.report import Report

FLUSH_SECONDS = 2.0
LONGEST_PAUSE = 8.0
RECORD_SECONDS = 3600.0
"""How long a finished job waits for a database that is away; what it stored is kept for longer than that."""

MODEL_FILES: Mapping[SourceFormat, str] = {
    "pt2": "model.pt2",
    "huggingface": "model.tar",
    "safetensors": "model.safetensors",
}
"""What the model is called in a job's folder."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Workshop:
    """Where a job is worked on."""

    sessions: sessionmaker[Session]
    storage: Storage
    sandbox: Sandbox
    spares: Spares
    settings: Settings


def supervise(claim: Claim, workshop: Workshop) -> None:
    """Carry a claimed job to its end. Raises OSError when the storage can't be read or written."""
    with (
        Heartbeat(workshop.sessions, claim, workshop.settings.lease_seconds) as heartbeat,
        _process(claim, workshop) as spare,
    ):
        folder = spare.folder.path
        # 1. Inputs, checked against their digests on the way, and what earlier attempts left.
        key = key_of(claim)
        _fetch(claim, key, workshop, folder, heartbeat)
        keeper = CheckpointKeeper(claim, key, workshop.storage, folder, heartbeat)
        # 2. The child, watched; it may be stopped because the row says so.
        spare.child.go()
        log.info("attempt %s: child %s goes", claim.attempt, spare.child.pid)
        if claim.others_wait:  # else this job has the cores to itself, and the next process is started after it
            workshop.spares.prepare()
        ending = watch(spare, claim, workshop.sandbox, heartbeat, keeper.look)
        # 3. The end, recorded once.
        _conclude(claim, workshop, folder, ending, heartbeat)


def record(workshop: Workshop, end: Callable[[Session], bool]) -> None:
    """Write the end, again and again if the database is away; the token makes a second write harmless."""
    deadline, pause = time.monotonic() + RECORD_SECONDS, 0.5
    while True:
        try:
            with workshop.sessions() as session:
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


@contextmanager
def _process(claim: Claim, workshop: Workshop) -> Iterator[Spare]:
    """A process in a folder that no other claim of this job has: a worker that was lost can spoil only its own."""
    spare = workshop.spares.take()
    try:
        spare.folder.move(workshop.settings.scratch_dir.resolve() / claim.job_id / str(claim.token))
        yield spare
    finally:
        spare.end()


def _fetch(claim: Claim, key: str, workshop: Workshop, folder: Path, heartbeat: Heartbeat) -> None:
    inputs = {
        "model": (MODEL_FILES[claim.model_format], claim.model),
        "dataset": ("dataset.safetensors", claim.dataset),
        "evaluation_dataset": ("evaluation_dataset.safetensors", claim.evaluation_dataset),
    }
    spec: dict[str, object] = {
        "format": claim.model_format,
        "device": claim.device,
        "recipe": claim.recipe,
        "checkpoint_key": key,
        "checkpoint_seconds": workshop.settings.checkpoint_seconds,
    }
    if claim.sweep is not None:
        spec |= {"sweep": claim.sweep.entries, "latency": claim.sweep.latency}
    for role, (name, blob) in inputs.items():
        if blob:
            workshop.storage.fetch(blob.sha256, folder / name)
            spec[role] = name
    fetch_checkpoints(key, workshop.sessions, workshop.storage, folder, heartbeat)
    (folder / JOB_FILE).write_text(JobSpec.model_validate(spec).model_dump_json())


def _conclude(claim: Claim, workshop: Workshop, folder: Path, ending: Ending, heartbeat: Heartbeat) -> None:
    if ending.standing is Standing.LOST:
        log.warning("the claim was lost, nothing is recorded")
        return
    heartbeat.flush(FLUSH_SECONDS)
    if ending.standing is Standing.CANCEL:
        record(workshop, partial(endings.stop, claim=claim, peak_memory_bytes=ending.peak_memory_bytes))
    elif ending.excess:
        _fail(claim, workshop, ending, failures.took_too_much(ending.excess, ending.phase, claim.recipe))
    elif ending.overdue:
        _fail(claim, workshop, ending, failures.took_too_long(claim.running_seconds, ending.phase, claim.recipe))
    elif ending.exit_code == EXIT_OK:
        _succeed(claim, workshop, folder, ending, heartbeat)
    elif ending.exit_code == EXIT_FAILED:
        _fail_as_told(claim, workshop, folder, ending)
    else:
        _fail(claim, workshop, ending, failures.died(ending.exit_code, ending.phase, claim.recipe))


def _succeed(claim: Claim, workshop: Workshop, folder: Path, ending: Ending, heartbeat: Heartbeat) -> None:
    try:
        files = outputs(folder, claim)
        result = read_result(folder, claim)
    except OutputError as error:
        _fail(claim, workshop, ending, failures.invalid_output(ending.phase), because=error)
        return

    def tell(done: int) -> None:
        progress = Progress(phase="publishing", done=done, total=len(files) + 1)
        heartbeat.tell(partial(claims.report_progress, claim=claim, progress=progress, eta_seconds=None))

    tell(0)
    products = store(files, workshop.storage)
    tell(len(files))
    products.append(store_manifest(claim, result, products, workshop.storage))
    heartbeat.flush(FLUSH_SECONDS)
    peak = max(ending.peak_memory_bytes, result.peak_memory_bytes)
    verdict = result.verdict if isinstance(result, Report) else None
    record(
        workshop,
        partial(endings.succeed, claim=claim, verdict=verdict, products=products, peak_memory_bytes=peak),
    )


def _fail_as_told(claim: Claim, workshop: Workshop, folder: Path, ending: Ending) -> None:
    """The child says why, and may leave the report that says so."""
    try:
        failure = read_failure(folder)
    except OutputError as error:
        _fail(claim, workshop, ending, failures.invalid_output(ending.phase), because=error)
        return
    products = []
    with suppress(OutputError):
        read_report(folder)
        products = store([folder / OUT_FOLDER / REPORT_FILE], workshop.storage)
    failure = failure.model_copy(update={"phase": failure.phase or ending.phase})
    _fail(claim, workshop, ending, failure, products)


def _fail(
    claim: Claim,
    workshop: Workshop,
    ending: Ending,
    failure: Failure,
    products: Sequence[Product] = (),
    *,
    because: OutputError | None = None,
) -> None:
    log.error("the job failed: %s: %s %s\n%s", failure.code, failure.detail, because or "", ending.last_words)
    peak = ending.peak_memory_bytes
    record(
        workshop,
        partial(endings.fail, claim=claim, failure=failure, products=products, peak_memory_bytes=peak),
    )
