"""Copies a service while it runs: the database first, as it was at one moment, then the blobs that this copy names.

A blob never changes, so one that the copy names is the right one whenever it is copied. It can be gone, where a row was
deleted since and garbage was collected: then the database is copied again, and what is missing from that copy is
fetched, until a copy names nothing that is not there. The other order would lose what comes between the two.
"""

import json
import os
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from hashlib import file_digest
from pathlib import Path

from sqlalchemy import URL, Connection, Engine, create_engine, func, make_url, select, union

from app import VERSION
from app.database import create_engine_for
from app.jobs.retention import BLOBS
from app.settings import Settings
from app.storage import BlobDamaged, Storage

MANIFEST, SQLITE, DUMP, FOLDER = "manifest.json", "zeropoint.db", "zeropoint.dump", "blobs"
TRIES = 5


class BackupError(Exception):
    """A backup or restore that can't be made. The text is for the person at the terminal."""


def back_up(settings: Settings, storage: Storage, folder: Path) -> str:
    """Copy a service into a new folder and return what was copied, in words. Raises BackupError, OSError."""
    if folder.exists() and any(folder.iterdir()):
        raise BackupError(f"{folder} is not empty. Name a new folder.")
    (folder / FOLDER).mkdir(parents=True, exist_ok=True, mode=0o700)
    for _ in range(TRIES):
        database, digests = _copy_database(settings, folder)
        gone = [digest for digest in sorted(digests) if not _copied(storage, digest, blob_path(folder, digest))]
        if not gone:
            return _finish(folder, database, digests)
    raise BackupError(
        f"The storage lacks {len(gone)} blobs that the database names, such as {gone[0]}. Their artifacts are lost: "
        "delete their jobs, models or datasets, and back up again."
    )


def blob_path(folder: Path, digest: str) -> Path:
    """Return where a backup keeps a blob."""
    return folder / FOLDER / digest[:2] / digest


def sha256_of(path: Path) -> str:
    """Return the hex digest of a file."""
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()


def postgresql_url(settings: Settings) -> URL:
    """Return the address of a PostgreSQL as its own programs take it."""
    return make_url(settings.database_url).set(drivername="postgresql")


def run_program(name: str, url: URL, *arguments: str) -> None:
    """Run a program of PostgreSQL on a database; its password is in no command line. Raises BackupError."""
    program = shutil.which(name)
    if program is None:
        raise BackupError(
            f"There is no {name} on this machine. Install PostgreSQL's client programs, of the server's version or "
            "newer, or back up the database by its own means, and the storage after it."
        )
    environment = {**os.environ, **({"PGPASSWORD": url.password} if url.password else {})}
    address = url.set(password=None).render_as_string(hide_password=False)
    done = subprocess.run([program, *arguments, "--dbname", address], env=environment, capture_output=True, check=False)
    if done.returncode:
        words = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
        raise BackupError(f"{name} failed: {' '.join(words)}")


def _finish(folder: Path, database: Path, digests: set[str]) -> str:
    size = sum(blob_path(folder, digest).stat().st_size for digest in digests)
    manifest = {
        "zeropoint": VERSION,
        "database": database.name,
        "database_sha256": sha256_of(database),
        "blobs": len(digests),
        "bytes": size,
    }
    # Last, under its name at once: a folder without it is a backup that was broken off.
    part = folder / f"{MANIFEST}.part"
    part.write_text(json.dumps(manifest, indent=2) + "\n")
    part.rename(folder / MANIFEST)
    return f"copied the database and {len(digests)} blobs ({size} bytes) to {folder}"


def _copy_database(settings: Settings, folder: Path) -> tuple[Path, set[str]]:
    engine = create_engine_for(settings)
    try:
        if engine.dialect.name == "sqlite":
            return _copy_sqlite(engine, folder / SQLITE)
        return _dump_postgresql(engine, postgresql_url(settings), folder / DUMP)
    finally:
        engine.dispose()


def _copy_sqlite(engine: Engine, target: Path) -> tuple[Path, set[str]]:
    target.unlink(missing_ok=True)
    with engine.connect() as connection, closing(sqlite3.connect(target)) as copy:
        source = connection.connection.driver_connection
        assert isinstance(source, sqlite3.Connection)
        source.backup(copy)
        copy.execute("PRAGMA journal_mode = DELETE")  # one file, without a log beside it
    copied = create_engine(f"sqlite:///{target}")
    with _disposed(copied), copied.connect() as connection:
        return target, _named(connection)


def _dump_postgresql(engine: Engine, url: URL, target: Path) -> tuple[Path, set[str]]:
    with engine.connect().execution_options(isolation_level="REPEATABLE READ") as connection:
        connection.exec_driver_sql("SET LOCAL idle_in_transaction_session_timeout = 0")
        snapshot = connection.scalar(select(func.pg_export_snapshot()))
        digests = _named(connection)  # of the same moment as the dump
        run_program("pg_dump", url, "--format=custom", f"--snapshot={snapshot}", f"--file={target}", "--no-owner")
        return target, digests


@contextmanager
def _disposed(engine: Engine) -> Iterator[None]:
    try:
        yield
    finally:
        engine.dispose()


def _named(connection: Connection) -> set[str]:
    return {digest for digest in connection.scalars(union(*map(select, BLOBS))) if digest}


def _copied(storage: Storage, digest: str, target: Path) -> bool:
    """Copy a blob, whose digest is checked, unless it was; return whether it is there."""
    if target.exists():
        return True
    target.parent.mkdir(exist_ok=True, mode=0o700)
    part = target.with_suffix(".part")
    part.unlink(missing_ok=True)
    try:
        storage.fetch(digest, part)
    except (FileNotFoundError, BlobDamaged):
        part.unlink(missing_ok=True)
        return False
    part.rename(target)
    return True
