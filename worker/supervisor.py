"""One claimed job from its blobs to its end: fetch, run the child, publish, record once.

Each way to end is recorded in one transaction that matches only while the claim's token still does.
"""

import logging
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session, sessionmaker

from app.jobs import service
from app.jobs.service import Claim, Product, Standing
from app.storage import Storage
from quantization.folder import (
    EXIT_FAILED,
    EXIT_OK,
    JOB_FILE,
    OUT_FOLDER,
    REPORT_FILE,
    Failure,
    JobSpec,
    Phase,
    Progress,
)
from worker import failures
from worker.delivery import OutputError, outputs, read_failure, read_report, store, store_manifest
from worker.process import Child, started
from worker.progress import ProgressWatch, Reading
from worker.sandbox import Sandbox, command
from worker.usage import Excess, UsageWatch

TICK_SECONDS = 0.2
RECORD_PAUSES = (0.5, 1.0, 2.0, 4.0, 8.0)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Workshop:
    """Where a job is worked on."""

    sessions: sessionmaker[Session]
    storage: Storage
    scratch: Path
    job_seconds: int
    sandbox: Sandbox


@dataclass(frozen=True)
class Ending:
    """How the child ended: by itself (standing GO_ON, no excess, not overdue), or because it was stopped."""

    exit_code: int
    standing: Standing
    overdue: bool
    excess: Excess | None
    phase: Phase | None
    last_words: str


def supervise(claim: Claim, workshop: Workshop) -> None:
    """Carry a claimed job to its end."""
    # 1. A folder that no other claim of this job shares: a paused worker that wakes up can only spoil its own.
    with _folder(workshop.scratch / claim.job_id / str(claim.token)) as folder:
        # 2. Inputs, checked against their digests on the way.
        _fetch(claim, workshop.storage, folder)
        # 3. The child, watched; it may be stopped because the row says so.
        ending = _run(claim, workshop, folder)
        # 4. The end, recorded once.
        if ending.standing is Standing.LOST:
            log.warning("the claim was lost, nothing is recorded")
        elif ending.standing is Standing.CANCEL:
            record(workshop, lambda session: service.finish_cancelled(session, claim))
        elif ending.excess:
            _fail(claim, workshop, ending, failures.took_too_much(ending.excess, ending.phase))
        elif ending.overdue:
            _fail(claim, workshop, ending, failures.took_too_long(workshop.job_seconds, ending.phase))
        elif ending.exit_code == EXIT_OK:
            _succeed(claim, workshop, folder, ending)
        elif ending.exit_code == EXIT_FAILED:
            _fail_as_told(claim, workshop, folder, ending)
        else:
            _fail(claim, workshop, ending, failures.died(ending.exit_code, ending.phase))


def record(workshop: Workshop, finish: Callable[[Session], bool]) -> None:
    """Write the end, again and again for a while if the database is away; the token makes a second write harmless."""
    for pause in (*RECORD_PAUSES, None):
        try:
            with workshop.sessions() as session:
                recorded = finish(session)
        except OperationalError:
            if pause is None:
                raise
            log.warning("the database does not answer, trying again in %s s", pause)
            time.sleep(pause)
        else:
            if not recorded:
                log.warning("the claim was lost, nothing was recorded")
            return


@contextmanager
def _folder(path: Path) -> Iterator[Path]:
    path = path.resolve()
    path.mkdir(mode=0o700, parents=True)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        with suppress(OSError):  # another attempt's folder is there
            path.parent.rmdir()


def _fetch(claim: Claim, storage: Storage, folder: Path) -> None:
    inputs = {
        "model": ("model.pt2", claim.model),
        "dataset": ("dataset.safetensors", claim.dataset),
        "evaluation_dataset": ("evaluation_dataset.safetensors", claim.evaluation_dataset),
    }
    spec: dict[str, object] = {"device": claim.device, "recipe": claim.recipe}
    for role, (name, blob) in inputs.items():
        if blob:
            storage.fetch(blob.sha256, folder / name)
            spec[role] = name
    (folder / JOB_FILE).write_text(JobSpec.model_validate(spec).model_dump_json())


def _run(claim: Claim, workshop: Workshop, folder: Path) -> Ending:
    watch = ProgressWatch()
    standing = Standing.GO_ON
    deadline = time.monotonic() + workshop.job_seconds
    with started(command("job", folder, workshop.sandbox), folder) as child:
        child.go()
        log.info("attempt %s: child %s started", claim.attempt, child.pid)
        usage = UsageWatch(child.pid, folder, workshop.sandbox.memory_bytes, workshop.sandbox.disk_bytes)
        while not child.ended and standing is Standing.GO_ON and not usage.excess and time.monotonic() < deadline:
            _listen(child, watch)
            usage.look()
            standing = _beat(claim, workshop, watch.due())
        overdue = standing is Standing.GO_ON and not child.ended
        exit_code = child.stop()
        for line in child.read(0):
            watch.feed(line)
    log.info("child %s ended with %s in phase %s", child.pid, exit_code, watch.phase)
    return Ending(exit_code, standing, overdue, usage.excess, watch.phase, child.last_words)


def _listen(child: Child, watch: ProgressWatch) -> None:
    """One tick, whatever the child writes: the row is asked at this pace, and not at the child's."""
    until = time.monotonic() + TICK_SECONDS
    while not child.ended and (left := until - time.monotonic()) > 0:
        for line in child.read(left):
            watch.feed(line)


def _beat(claim: Claim, workshop: Workshop, readings: Sequence[Reading]) -> Standing:
    """Record what is due and learn what the row wants. A database that is away for a while does not stop the child."""
    try:
        with workshop.sessions() as session:
            standings = [service.report_progress(session, claim, r.progress, r.eta_seconds) for r in readings]
            return standings[-1] if standings else service.standing(session, claim)
    except OperationalError:
        log.warning("the database does not answer, the child goes on")
        return Standing.GO_ON


def _succeed(claim: Claim, workshop: Workshop, folder: Path, ending: Ending) -> None:
    try:
        files = outputs(folder, claim)
        report = read_report(folder)
    except OutputError as error:
        _fail(claim, workshop, ending, failures.invalid_output(ending.phase), because=error)
        return

    total = len(files) + 1

    def tell(done: int) -> None:
        _beat(claim, workshop, [Reading(Progress(phase="publishing", done=done, total=total), None)])

    tell(0)
    products = store(files, workshop.storage)
    tell(total - 1)
    products.append(store_manifest(claim, report, products, workshop.storage))
    record(workshop, lambda session: service.finish_succeeded(session, claim, report.verdict, products))


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
    record(workshop, lambda session: service.finish_failed(session, claim, failure, products))
