"""Which blobs rows name, which jobs are forgotten, and what garbage collection removes, on both databases."""

import os
import time
from datetime import timedelta
from pathlib import Path

import httpx
import pytest
from sqlalchemy import Table, delete, func, select, update
from sqlalchemy.orm import Session, sessionmaker

from app.catalog.models import Dataset
from app.database import Base, clock, new_id
from app.jobs.models import Artifact, Job
from app.jobs.retention import BLOBS, Collected, collect_garbage, expire_jobs, referenced
from app.jobs.status import LIVE, TERMINAL, JobState
from app.settings import Settings
from app.storage import LocalStorage, Removed, Storage
from tests.app.storages import is_there
from tests.factories import add_dataset, add_job, add_model, safetensors

HOUR = timedelta(hours=1)
NO_BLOBS = {"models.sha256", "datasets.sha256", "jobs.request_sha256"}
"""Digests of what came in, which is not what is stored."""


def put(storage: Storage, data: bytes) -> str:
    with storage.writer() as writer:
        writer.write(data)
        sha256 = writer.commit().sha256
    age(storage, sha256)
    return sha256


def age(storage: Storage, sha256: str) -> None:
    assert isinstance(storage, LocalStorage)
    past = time.time() - 48 * 3600
    os.utime(storage.path(sha256), (past, past))


def add_artifact(session: Session, job: Job, sha256: str) -> None:
    session.add(
        Artifact(
            id=new_id("art", clock(session)),
            job_id=job.id,
            attempt=1,
            name="report.json",
            kind="report",
            bytes=1,
            sha256=sha256,
            created_at=clock(session),
        )
    )
    session.commit()


def ended(session: Session, ago: timedelta, state: JobState = JobState.SUCCEEDED) -> Job:
    job = add_job(session, tags=("nightly",))
    session.execute(update(Job).where(Job.id == job.id).values(state=state, finished_at=clock(session) - ago))
    session.commit()
    return job


def rows(session: Session) -> dict[str, int]:
    """How many rows each table has that belongs to jobs."""
    tables = [table for table in Base.metadata.sorted_tables if _belongs_to_jobs(table)]
    return {table.name: session.scalar(select(func.count()).select_from(table)) or 0 for table in tables}


def _belongs_to_jobs(table: Table) -> bool:
    return table.name == "jobs" or any(key.column.table.name == "jobs" for key in table.foreign_keys)


def test_every_digest_of_stored_bytes_counts_as_a_reference() -> None:
    """Whoever adds a column with a digest decides here whether garbage collection must ask for it."""
    columns = {str(column) for table in Base.metadata.sorted_tables for column in table.columns}
    assert {name for name in columns if "sha256" in name} - NO_BLOBS == {str(column.expression) for column in BLOBS}


def test_what_models_datasets_and_artifacts_hold_is_referenced(
    session: Session, storage: Storage, archive: Path, samples: Path
) -> None:
    model = add_model(session, storage, archive)
    dataset = add_dataset(session, storage, samples.read_bytes())
    add_artifact(session, add_job(session), "c" * 64)
    wanted = {model.stored_sha256, dataset.stored_sha256, "c" * 64}
    assert referenced(session, [*sorted(wanted), "d" * 64]) == wanted
    assert referenced(session, [model.stored_sha256]) == {model.stored_sha256}


def test_a_reference_is_seen_though_the_session_had_looked_before(sessions: sessionmaker[Session]) -> None:
    with sessions() as session, sessions() as other:
        assert referenced(session, ["c" * 64]) == set()
        session.scalar(select(func.count()).select_from(Job))  # holds a snapshot
        add_artifact(other, add_job(other), "c" * 64)
        assert referenced(session, ["c" * 64]) == {"c" * 64}


def test_a_job_that_ended_long_ago_goes_with_all_that_is_its_own(session: Session) -> None:
    add_artifact(session, ended(session, 2 * HOUR), "c" * 64)
    before = rows(session)
    assert expire_jobs(session, HOUR) == 1
    assert all(before[name] for name in ("jobs", "job_events", "job_tags", "artifacts"))
    assert set(rows(session).values()) == {0}


@pytest.mark.parametrize("state", sorted(TERMINAL))
def test_each_final_state_expires_and_not_before_its_time(session: Session, state: JobState) -> None:
    ended(session, 2 * HOUR, state)
    young = ended(session, HOUR / 2, state)
    assert expire_jobs(session, HOUR) == 1
    assert session.scalars(select(Job.id)).all() == [young.id]


def test_a_job_that_has_not_ended_never_expires(session: Session) -> None:
    for state in LIVE:
        session.execute(update(Job).where(Job.id == add_job(session).id).values(state=state))
        session.commit()
    assert expire_jobs(session, timedelta(0)) == 0


def test_more_jobs_than_a_batch_expire_at_once(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.jobs.retention.BATCH", 2)
    for _ in range(5):
        ended(session, 2 * HOUR)
    assert expire_jobs(session, HOUR) == 5


def test_a_job_s_bytes_go_when_it_expires_and_another_s_stay(
    sessions: sessionmaker[Session], session: Session, storage: Storage, settings: Settings
) -> None:
    gone, kept = put(storage, b"old"), put(storage, b"young")
    add_artifact(session, ended(session, 2 * HOUR), gone)
    add_artifact(session, ended(session, HOUR / 2), kept)
    hourly = settings.model_copy(update={"keep_jobs_seconds": 3600})
    assert collect_garbage(sessions, storage, hourly) == Collected(jobs=1, removed=Removed(1, 3, 0))
    assert (is_there(storage, gone), is_there(storage, kept)) == (False, True)


def test_jobs_stay_for_ever_unless_the_operator_says_otherwise(
    sessions: sessionmaker[Session], session: Session, storage: Storage, settings: Settings
) -> None:
    job = ended(session, timedelta(days=4000))
    assert collect_garbage(sessions, storage, settings) == Collected(jobs=0, removed=Removed(0, 0, 0))
    assert session.scalars(select(Job.id)).all() == [job.id]


def test_the_bytes_of_deleted_uploads_go_when_the_last_row_that_needs_them_went(
    client: httpx.Client, sessions: sessionmaker[Session], storage: Storage, settings: Settings, session: Session
) -> None:
    data = safetensors(x=("F32", [4, 3]))
    first, second = (client.post("/v1/datasets", content=data).headers["Location"] for _ in range(2))
    (stored,) = set(session.scalars(select(Dataset.stored_sha256)))
    for location, remains in ((first, True), (second, False)):
        assert client.delete(location).status_code == 204
        assert is_there(storage, stored)
        age(storage, stored)
        collect_garbage(sessions, storage, settings)
        assert is_there(storage, stored) is remains


def test_rows_go_with_their_job_whoever_deletes_it(session: Session) -> None:
    """The database itself does it: SQLite only where foreign keys are on."""
    job = ended(session, HOUR)
    session.execute(delete(Job).where(Job.id == job.id))
    session.commit()
    assert set(rows(session).values()) == {0}
