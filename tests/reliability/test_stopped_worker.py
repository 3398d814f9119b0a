"""A worker that is stopped past its lease, and goes on when another one has done its job: nothing changes."""

import signal
from collections.abc import Mapping
from pathlib import Path

import psycopg
import pytest
from sqlalchemy.orm import Session

from app.jobs import queries
from app.jobs.models import Job
from app.settings import Settings
from app.storage import Storage
from tests.reliability.running_worker import calibrating_job, environment_of, signal_all, worker
from tests.service.processes import descendants, eventually, is_leader, is_running, working_folder

# A process that is stopped in a transaction keeps its locks: PostgreSQL says whether one is open.
pytestmark = [
    pytest.mark.sampled(2),
    pytest.mark.own_service,
    pytest.mark.parametrize("database_url", ["postgresql"], indirect=True),
]

SAMPLES = 100
LEASE_SECONDS = 6


@pytest.fixture
def environment(settings: Settings) -> dict[str, str]:
    return environment_of(settings, lease_seconds=LEASE_SECONDS, reconcile_seconds=0.5, worker_stop_seconds=0)


@pytest.fixture
def job_id(session: Session, storage: Storage, tmp_path: Path) -> str:
    return calibrating_job(session, storage, tmp_path, SAMPLES)


def row(session: Session, job_id: str) -> Job:
    session.rollback()
    return session.get_one(Job, job_id, populate_existing=True)


def stop_between_transactions(pid: int, database_url: str) -> list[int]:
    """Stop a worker and all that it started; return them."""
    open_ones = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state LIKE 'idle in%'"
    with psycopg.connect(database_url, autocommit=True) as connection:
        while True:
            stopped = descendants(pid)
            signal_all(stopped, signal.SIGSTOP)
            (found,) = connection.execute(open_ones).fetchone() or (1,)
            if not found:
                return stopped
            signal_all(stopped, signal.SIGCONT)


@pytest.mark.parametrize("state", ["running", "succeeded"])
def test_a_worker_that_slept_past_its_lease_changes_nothing(
    state: str, job_id: str, session: Session, settings: Settings, environment: Mapping[str, str]
) -> None:
    """It wakes up while the other one has the job, or when that is done."""
    folder, logs = settings.scratch_dir / job_id / "1", settings.scratch_dir.parent
    with worker("first@here", environment, logs / "first.log") as first:
        eventually(lambda: row(session, job_id).phase not in (None, "loading"))
        session.rollback()
        stopped = stop_between_transactions(first, settings.database_url)
        (child,) = [pid for pid in stopped if is_leader(pid) and working_folder(pid) == str(folder)]
        with worker("second@here", environment, logs / "second.log"):
            eventually(lambda: row(session, job_id).token == 2 and row(session, job_id).state == state)
            assert is_running(child)
            assert folder.is_dir()
            signal_all(stopped, signal.SIGCONT)
            eventually(lambda: b"the claim was lost" in (logs / "first.log").read_bytes())
            eventually(lambda: not is_running(child) and not folder.exists())
            eventually(lambda: row(session, job_id).state == "succeeded")
    attempts = [(one.token, one.worker, one.outcome) for one in queries.attempts(session, job_id)]
    assert attempts == [(1, "first@here", "worker_lost"), (2, "second@here", "succeeded")]
    assert {artifact.attempt for artifact in queries.artifacts(session, job_id)} == {2}
    states = [one.data["state"] for one in queries.events(session, job_id, 0, 100) if one.kind == "state"]
    assert states == ["queued", "running", "queued", "running", "succeeded"]
