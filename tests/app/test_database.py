"""The database: migrations, ids, times, and two writers at once."""

import threading
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Engine, inspect, text
from sqlalchemy.orm import Session, sessionmaker
from sqlalchemy.pool import QueuePool

from app.database import Base, begin_writing, connected, migrate, new_id, schema_is_current
from app.jobs.models import Worker
from app.jobs.submission import Submission
from app.jobs.work import QuantizeWork
from app.settings import Settings
from zeropoint.schema.recipe import Recipe


def test_migrations_and_models_describe_the_same_tables(engine: Engine) -> None:
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []


def test_downgrade_leaves_nothing_and_upgrade_brings_it_back(engine: Engine, settings: Settings) -> None:
    migrate(settings, "base")
    assert set(inspect(engine).get_table_names()) <= {"alembic_version"}
    migrate(settings)
    assert set(Base.metadata.tables) <= set(inspect(engine).get_table_names())


def test_jobs_of_an_older_version_get_their_kind(engine: Engine, settings: Settings) -> None:
    migrate(settings, "base")
    migrate(settings, "0004")
    columns = "id, state, done, total, model_id, recipe, sweep, device, priority, token, attempts, events"
    row = "'queued', 0, 0, 'mdl_0', '{}', :sweep, 'cpu', 0, 0, 0, 0, 'a', '2026-01-01'"
    with engine.begin() as connection:
        for job_id, sweep in (("job_0", None), ("swp_0", '{"recipes": [], "latency": false}')):
            insert = f"INSERT INTO jobs ({columns}, request_sha256, created_at) VALUES (:id, {row})"
            connection.execute(text(insert), {"id": job_id, "sweep": sweep})
    migrate(settings)
    with engine.connect() as connection:
        kinds = connection.execute(text("SELECT id, kind FROM jobs ORDER BY id")).all()
    assert [tuple(row) for row in kinds] == [("job_0", "quantize"), ("swp_0", "sweep")]


def test_keys_of_an_older_version_still_find_their_jobs(engine: Engine, settings: Settings) -> None:
    migrate(settings, "base")
    migrate(settings, "0009")
    columns = (
        "id, state, done, total, model_id, recipe, device, wanted_device, priority, token, attempts, events, owner, "
        "pending_seconds, running_seconds, pending_until, request_sha256, created_at, idempotency_key"
    )
    row = (
        "'job_0', 'queued', 0, 0, 'm', '{}', 'cpu', 'cpu', 0, 0, 0, 0, 'o', 1, 1, '2026-01-01', 'a', '2026-01-01', 'k'"
    )
    with engine.begin() as connection:
        connection.execute(text(f"INSERT INTO jobs ({columns}) VALUES ({row})"))
    migrate(settings)
    digest = Submission("m", QuantizeWork(Recipe()), owner="o", idempotency_key="k").key_digest
    with engine.connect() as connection:
        assert connection.execute(text("SELECT idempotency_key FROM jobs")).scalar_one() == digest


def test_failed_jobs_of_an_older_version_get_their_code(engine: Engine, settings: Settings) -> None:
    migrate(settings, "base")
    migrate(settings, "0013")
    values = {
        "id": "'job_0'", "kind": "'quantize'", "state": "'failed'", "model_id": "'m'", "recipe": "'{}'",
        "device": "'cpu'", "wanted_device": "'cpu'", "owner": "''", "error": "'{\"code\": \"killed\"}'",
        "request_sha256": "'a'", "created_at": "'2026-01-01'", "pending_until": "'2026-01-01'",
        **dict.fromkeys(["done", "total", "priority", "token", "attempts", "events", "pending_seconds"], "0"),
        "running_seconds": "1",
    }  # fmt: skip
    with engine.begin() as connection:
        connection.exec_driver_sql(f"INSERT INTO jobs ({', '.join(values)}) VALUES ({', '.join(values.values())})")
    migrate(settings)
    with engine.connect() as connection:
        assert connection.execute(text("SELECT error_code FROM jobs")).scalar_one() == "killed"


def test_schema_is_current_only_after_every_migration(engine: Engine, settings: Settings) -> None:
    with engine.connect() as connection:
        assert schema_is_current(connection)
    migrate(settings, "base")
    with engine.connect() as connection:
        assert not schema_is_current(connection)


def test_migrate_works_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    migrate(Settings(database_url="sqlite:///new/zeropoint.db"))
    assert (tmp_path / "new" / "zeropoint.db").exists()


def test_ids_sort_by_the_time_they_were_made() -> None:
    began = datetime(2026, 1, 1, tzinfo=UTC)
    ids = [new_id("job", began + timedelta(microseconds=made)) for made in range(1000)]
    assert ids == sorted(set(ids))


def test_a_time_comes_back_as_the_same_moment_in_utc(session: Session) -> None:
    noon_in_delhi = datetime(2026, 1, 1, 12, tzinfo=timezone(timedelta(hours=5, minutes=30)))
    session.add(Worker(name="w", device="cpu", version="1", started_at=noon_in_delhi, seen_at=noon_in_delhi))
    session.commit()
    session.expire_all()
    read = session.get_one(Worker, "w").started_at
    assert read == noon_in_delhi
    assert read.tzinfo is UTC


def test_writers_wait_for_each_other(sessions: sessionmaker[Session]) -> None:
    """Without the early lock SQLite refuses a transaction that read before another one wrote."""
    with sessions() as session:
        session.execute(text("INSERT INTO workers VALUES ('w', 'cpu', '0', '2026-01-01', '2026-01-01', '{}')"))
        session.commit()

    def count_up() -> None:
        for _ in range(20):
            with sessions() as session:
                begin_writing(session)
                worker = session.get_one(Worker, "w", with_for_update=True)
                worker.version = str(int(worker.version) + 1)
                session.commit()

    threads = [threading.Thread(target=count_up) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with sessions() as session:
        assert session.get_one(Worker, "w").version == "80"


def test_a_process_compiles_its_statements_once_and_keeps_no_connection(settings: Settings) -> None:
    """An engine for each job grew a pool process by 30 MiB."""
    engines = []
    for _ in range(3):
        with connected(settings) as sessions, sessions() as session:
            session.execute(text("SELECT 1"))
            engines.append(session.get_bind())
        pool = engines[-1].pool  # type: ignore[union-attr]
        assert isinstance(pool, QueuePool)
        assert (pool.checkedin(), pool.checkedout()) == (0, 0)
    assert len(set(engines)) == 1
