"""The program beside a worker: it survives the worker's death and its own, and nothing is told twice or never."""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import pytest
from sqlalchemy.orm import Session

from app.jobs.models import Job, MlflowRun
from app.settings import Settings
from app.storage import Storage
from tests.mlflow_server import MlflowServer
from tests.reliability.running_worker import calibrating_job, environment_of, signal_all, worker
from tests.servers import ROOT
from tests.service.processes import command_line, descendants, eventually, is_running
from worker.mlflow_sender.process import PROGRAM

pytestmark = pytest.mark.own_service

SAMPLES = 60


@pytest.fixture
def environment(settings: Settings) -> dict[str, str]:
    return environment_of(settings, lease_seconds=4, reconcile_seconds=0.5, compile_seconds=0, worker_stop_seconds=0)


@pytest.fixture
def job_id(session: Session, storage: Storage, tmp_path: Path) -> str:
    return calibrating_job(session, storage, tmp_path, SAMPLES)


def programs(worker: int) -> list[int]:
    found = []
    for pid in descendants(worker):
        with suppress(FileNotFoundError, ProcessLookupError):
            found += [pid] if PROGRAM in command_line(pid) else []
    return found


def told(session: Session, job_id: str) -> bool:
    """Whether the job has ended and nothing is left to tell of it."""
    session.rollback()
    job = session.get_one(Job, job_id, populate_existing=True)
    return job.finished_at is not None and session.get(MlflowRun, job_id, populate_existing=True) is None


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_job_whose_worker_is_killed_is_one_run_that_the_next_one_closes(
    job_id: str, session: Session, environment: Mapping[str, str], mlflow: MlflowServer, tmp_path: Path
) -> None:
    with worker("first@here", environment, tmp_path / "first.log") as first:
        opened = eventually(lambda: mlflow.runs(job_id))
        everyone = descendants(first)
        assert len(programs(first)) == 1
        signal_all(everyone, signal.SIGKILL)  # nobody releases the job
        eventually(lambda: not any(map(is_running, everyone)))
    assert [run.info.status for run in opened] == ["RUNNING"]
    with worker("second@here", environment, tmp_path / "second.log") as second:
        (program,) = eventually(lambda: programs(second))
        os.kill(program, signal.SIGKILL)  # it is started again
        eventually(lambda: told(session, job_id))
    run = mlflow.run(job_id)
    assert (run.info.run_id, run.info.status) == (opened[0].info.run_id, "FINISHED")
    assert run.data.metrics["sqnr_db"] > 10
    assert run.data.tags["zeropoint.attempts"] == "2"
    assert "ended with -9, starting it again" in (tmp_path / "second.log").read_text()


def test_a_worker_without_the_client_does_not_start_and_says_what_to_install() -> None:
    program = """
import sys
sys.modules["mlflow"] = None
from app.settings import Settings
from worker.mlflow_sender.process import require_client
require_client(Settings())
print("not asked for", flush=True)
require_client(Settings(mlflow_tracking_uri="http://127.0.0.1:1"))
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "not asked for\n")
    assert "pip install '.[mlflow]'" in done.stderr


def test_a_worker_itself_never_imports_the_client() -> None:
    program = "import sys, worker.main; print(*(name for name in sys.modules if name.startswith('mlflow')))"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
