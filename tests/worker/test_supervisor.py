"""One sha256 job and its real child program, with a real database and a real storage."""

import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy.orm import Session, sessionmaker

from app.catalog.models import Model
from app.jobs import service
from app.jobs.models import Job
from app.jobs.submission import Submission
from app.settings import Settings, get_settings
from app.storage import Storage
from quantization.recipe import CalibrationSettings, Recipe
from tests.factories import add_dataset, add_model
from tests.networks import convolutional
from worker.sandbox import Sandbox
from worker.supervisor import Workshop, supervise
from worker.tasks import run_job

# What is recorded is the database's matter, and tested there on both.
pytestmark = [pytest.mark.parametrize("database_url", ["sqlite"], indirect=True), pytest.mark.timed]

ONE_BY_ONE = Recipe(calibration=CalibrationSettings(samples=100_000, batch_size=1))


@pytest.fixture
def job_id(session: Session, storage: Storage, tmp_path: Path) -> str:
    """A queued job that would calibrate for minutes."""
    example = convolutional(100_000)
    model = add_model(session, storage, example.export(tmp_path / "model.pt2"))
    dataset = add_dataset(session, storage, example.save_dataset(tmp_path / "samples.safetensors").read_bytes())
    submission = Submission(model=model.id, dataset=dataset.id, recipe=ONE_BY_ONE)
    return service.submit(session, submission, lambda *_: None).id


@pytest.fixture
def workshop(sessions: sessionmaker[Session], storage: Storage, settings: Settings) -> Workshop:
    return Workshop(sessions, storage, settings.scratch_dir, 60, Sandbox())


def reread(session: Session, job_id: str) -> Job:
    """The row as another session left it."""
    session.rollback()
    return session.get_one(Job, job_id)


def test_a_claim_that_was_lost_ends_the_child_and_records_nothing(
    job_id: str, session: Session, workshop: Workshop
) -> None:
    claim = service.claim(session, job_id, "worker")
    assert claim is not None

    def take_over() -> None:
        time.sleep(1)
        with workshop.sessions() as other:
            job = other.get_one(Job, job_id)
            job.token += 1
            other.commit()

    thread = threading.Thread(target=take_over)
    thread.start()
    began = time.monotonic()
    supervise(claim, workshop)
    thread.join()
    assert time.monotonic() - began < 5
    job = reread(session, job_id)
    assert (job.state, job.error) == ("running", None)
    assert not (workshop.scratch / job_id).exists()


def test_a_job_that_takes_too_long_is_stopped_and_fails(
    job_id: str, session: Session, sessions: sessionmaker[Session], storage: Storage, tmp_path: Path
) -> None:
    claim = service.claim(session, job_id, "worker")
    assert claim is not None
    supervise(claim, Workshop(sessions, storage, tmp_path / "scratch", 1, Sandbox()))
    job = reread(session, job_id)
    assert job.state == "failed"
    assert job.error is not None
    assert job.error["code"] == "wall_time_limit"


@pytest.mark.parametrize(
    ("sandbox", "code"),
    [
        (
            Sandbox(device="cuda", memory_bytes=50 << 20),
            "out_of_memory",
        ),  # so that no limit of the kernel's is in the way
        (Sandbox(disk_bytes=1 << 20), "disk_limit"),
    ],
    ids=["memory", "disk"],
)
def test_a_job_that_holds_too_much_is_stopped_and_fails(
    sandbox: Sandbox, code: str, job_id: str, session: Session, workshop: Workshop
) -> None:
    claim = service.claim(session, job_id, "worker")
    assert claim is not None
    supervise(claim, replace(workshop, sandbox=sandbox))
    job = reread(session, job_id)
    assert job.state == "failed"
    assert job.error is not None
    assert job.error["code"] == code


def test_a_fault_of_the_workers_own_fails_the_job_without_a_word_of_it(
    job_id: str, session: Session, settings: Settings, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("database_url", "storage_url", "scratch_dir"):
        monkeypatch.setenv(f"ZEROPOINT_{name.upper()}", str(getattr(settings, name)))
    get_settings.cache_clear()
    sha256 = session.get_one(Model, session.get_one(Job, job_id).model_id).stored_sha256
    storage.delete(sha256)
    run_job(job_id, "worker")
    get_settings.cache_clear()
    job = reread(session, job_id)
    assert job.state == "failed"
    assert job.error is not None
    assert job.error["code"] == "internal_error"
    assert sha256 not in str(job.error)
