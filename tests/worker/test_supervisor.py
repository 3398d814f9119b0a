"""One claimed job and its real child program, with a real database and a real storage."""

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy.orm import Session, sessionmaker

from app.catalog.models import Model
from app.database import begin_writing
from app.jobs import queries, service
from app.jobs.models import Job
from app.jobs.submission import MostSeconds, Submission
from app.jobs.work import QuantizeWork
from app.settings import Settings
from app.storage import Storage
from sandbox.policy import Sandbox
from tests.factories import add_dataset, add_model, claim_one
from tests.networks import convolutional
from worker.child.prestarted import PrestartedChildren
from worker.heartbeat import LAST_BEAT_SECONDS
from worker.supervisor import WorkerContext, supervise
from worker.tasks import look
from zeropoint.schema.recipe import CalibrationSettings, Recipe

# What is recorded is the database's matter, and tested there on both.
pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

ONE_BY_ONE = Recipe(calibration=CalibrationSettings(samples=100_000, batch_size=1))


def submit(session: Session, storage: Storage, folder: Path, running_seconds: int = 60) -> str:
    """A queued job that would calibrate for minutes."""
    example = convolutional(100_000)
    model = add_model(session, storage, example.export(folder / "model.pt2"))
    dataset = add_dataset(session, storage, example.save_dataset(folder / "samples.safetensors").read_bytes())
    submission = Submission(model=model.id, dataset=dataset.id, work=QuantizeWork(ONE_BY_ONE))
    return service.submit(session, submission, MostSeconds(3600, running_seconds)).id


@pytest.fixture
def job_id(session: Session, storage: Storage, tmp_path: Path) -> str:
    return submit(session, storage, tmp_path)


@pytest.fixture
def context(sessions: sessionmaker[Session], storage: Storage, settings: Settings) -> Iterator[WorkerContext]:
    prestarted = PrestartedChildren(settings.scratch_dir, Sandbox())
    yield WorkerContext(sessions, storage, Sandbox(), prestarted, settings)
    prestarted.close()


def reread(session: Session, job_id: str) -> Job:
    """The row as another session left it."""
    session.rollback()
    return session.get_one(Job, job_id)


def error_of(job: Job) -> dict[str, str]:
    assert job.state == "failed"
    assert job.error is not None
    return job.error


def test_a_claim_that_was_lost_ends_the_child_and_records_nothing(
    job_id: str, session: Session, context: WorkerContext
) -> None:
    claim = claim_one(session)

    def take_over() -> None:
        time.sleep(1)
        with context.sessions() as other:
            job = other.get_one(Job, job_id)
            job.token += 1
            other.commit()

    thread = threading.Thread(target=take_over)
    thread.start()
    began = time.monotonic()
    supervise(claim, context)
    thread.join()
    assert time.monotonic() - began < 60  # by itself it takes minutes
    job = reread(session, job_id)
    assert (job.state, job.error) == ("running", None)
    assert not (context.settings.scratch_dir / job_id).exists()


@pytest.mark.timed
def test_a_lease_that_can_not_be_renewed_ends_the_child_before_others_may_have_the_job(
    job_id: str, session: Session, context: WorkerContext
) -> None:
    claim = claim_one(session)
    lease_seconds = 6.0
    begin_writing(session)  # SQLite's one write lock: renewals wait, as for a database that hangs
    began = time.monotonic()
    short = context.settings.model_copy(update={"lease_seconds": lease_seconds})
    supervise(claim, replace(context, settings=short))
    assert 3 < time.monotonic() - began < lease_seconds + LAST_BEAT_SECONDS
    assert not (context.settings.scratch_dir / job_id).exists()


def test_a_job_that_takes_too_long_is_stopped_and_fails(
    session: Session, storage: Storage, context: WorkerContext, tmp_path: Path
) -> None:
    job_id = submit(session, storage, tmp_path, running_seconds=1)
    supervise(claim_one(session), context)
    error = error_of(reread(session, job_id))
    assert error["code"] == "wall_time_limit"
    assert '"samples": 50000' in error["remedy"]


@pytest.mark.parametrize(
    ("sandbox", "code"),
    [
        # on "cuda" no limit of the kernel's is in the way
        (Sandbox(device="cuda", memory_bytes=50 << 20), "out_of_memory"),
        (Sandbox(disk_bytes=1 << 20), "disk_limit"),
    ],
    ids=["memory", "disk"],
)
def test_a_job_that_holds_too_much_is_stopped_and_fails(
    sandbox: Sandbox, code: str, job_id: str, session: Session, context: WorkerContext
) -> None:
    supervise(claim_one(session), replace(context, sandbox=sandbox))
    error = error_of(reread(session, job_id))
    assert error["code"] == code
    assert error["remedy"].startswith('Set "')
    (attempt,) = queries.attempts(session, job_id)
    assert attempt.peak_memory_bytes is not None
    assert attempt.peak_memory_bytes > 1 << 20


def look_once(settings: Settings) -> None:
    prestarted = PrestartedChildren(settings.scratch_dir, Sandbox())
    look("worker", settings, prestarted)
    prestarted.close()


def test_an_upload_whose_bytes_are_gone_fails_the_job_and_says_so(
    job_id: str, session: Session, settings: Settings, storage: Storage
) -> None:
    sha256 = session.get_one(Model, session.get_one(Job, job_id).model_id).stored_sha256
    storage.delete(sha256)
    look_once(settings)
    error = error_of(reread(session, job_id))
    assert error["code"] == "blob_missing"
    assert sha256 not in str(error)


def test_a_storage_that_is_away_is_waited_for(job_id: str, session: Session, settings: Settings) -> None:
    sha256 = session.get_one(Model, session.get_one(Job, job_id).model_id).stored_sha256
    blobs = Path(settings.storage_url.removeprefix("file:")) / "blobs" / sha256[:2]
    blobs.rename(blobs.with_name("away"))
    blobs.symlink_to(blobs)  # opening anything below fails with ELOOP, for root too
    look_once(settings)
    job = reread(session, job_id)
    assert (job.state, job.attempts, job.error) == ("queued", 1, None)
    assert job.not_before is not None
    assert [attempt.outcome for attempt in queries.attempts(session, job_id)] == ["storage_unavailable"]


def test_a_worker_whose_storage_can_not_be_opened_leaves_the_job_to_others(
    job_id: str, session: Session, settings: Settings
) -> None:
    root = Path(settings.storage_url.removeprefix("file:"))
    root.rename(root.with_name("away"))
    root.touch()  # no folder can be made there, by root neither
    look_once(settings)
    job = reread(session, job_id)
    assert (job.state, job.attempts) == ("queued", 0)
