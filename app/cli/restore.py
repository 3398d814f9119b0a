"""Brings a backup into an empty service: blobs first, so that no row ever names one that is not there."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

from sqlalchemy import inspect, make_url

from app.cli.backup import FOLDER, MANIFEST, SQLITE, BackupError, postgresql_url, run_program, sha256_of
from app.database import create_engine_for
from app.settings import Settings
from app.storage import Storage


def restore(settings: Settings, storage: Storage, folder: Path) -> str:
    """Bring a backup into a service without tables and return what came, in words. Raises BackupError, OSError."""
    manifest = _manifest(folder)
    database = folder / manifest["database"]
    _check(settings, manifest, database)
    blobs = [path for path in sorted((folder / FOLDER).glob("*/*")) if path.suffix != ".part"]
    if len(blobs) < manifest["blobs"]:
        raise BackupError(f"The backup lacks {manifest['blobs'] - len(blobs)} of its blobs.")
    for path in blobs:
        if sha256_of(path) != path.name:
            raise BackupError(f"The blob {path.name} of the backup is damaged. Nothing names it yet; take another one.")
        storage.put_file(path)
    _fill(settings, database)
    return f"brought back the database and {len(blobs)} blobs; run zeropoint migrate before the service starts"


def _manifest(folder: Path) -> dict[str, Any]:
    try:
        manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_text())
    except (OSError, ValueError) as error:
        raise BackupError(f"{folder} is no finished backup: it has no {MANIFEST} that can be read.") from error
    return manifest


def _check(settings: Settings, manifest: dict[str, Any], database: Path) -> None:
    kind = make_url(settings.database_url).get_backend_name()
    if (kind == "sqlite") != (database.name == SQLITE):
        raise BackupError(f"The backup is of another kind of database than {kind}: restore it into one of its kind.")
    if not database.is_file() or sha256_of(database) != manifest["database_sha256"]:
        raise BackupError(f"The backup's {database.name} is missing or damaged.")
    engine = create_engine_for(settings)
    try:
        if inspect(engine).get_table_names():
            raise BackupError(
                "The service has tables already, and a restore would mix two services. Name an empty database, or a "
                "new --data."
            )
    finally:
        engine.dispose()


def _fill(settings: Settings, database: Path) -> None:
    url = make_url(settings.database_url)
    if url.get_backend_name() != "sqlite":
        run_program("pg_restore", postgresql_url(settings), "--no-owner", "--exit-on-error", str(database))
        return
    target = Path(url.database or "")
    for leftover in (f"{target}-wal", f"{target}-shm"):  # of the empty database that was looked at
        Path(leftover).unlink(missing_ok=True)
    part = target.with_suffix(".part")
    shutil.copyfile(database, part)
    with part.open("rb") as file:
        os.fsync(file.fileno())
    part.rename(target)
