"""What `zeropoint doctor | jobs | gc | backup | restore` do, straight in the database and the storage."""

import argparse
import json
import sys
from collections.abc import Callable

from sqlalchemy.exc import SQLAlchemyError

from app.cli import doctor, job_actions
from app.cli.backup import BackupError, back_up
from app.cli.restore import restore
from app.database import connected, trouble_of
from app.errors import ServiceError
from app.jobs.retention import collect_garbage
from app.settings import Settings, get_settings
from app.storage import open_storage


def run(options: argparse.Namespace) -> int:
    """Run one of these commands and return its exit code."""
    try:
        return WORK[options.what](options, _settings(options))
    except (ServiceError, BackupError) as refused:
        print(refused, file=sys.stderr)
    except SQLAlchemyError as error:
        trouble = trouble_of(error)
        if trouble is None:
            raise
        print(f"The database: {trouble.value}. Check ZEROPOINT_DATABASE_URL, or name --data.", file=sys.stderr)
    except OSError as error:
        print(f"The storage, or a folder: {error.strerror or error}. zeropoint doctor says more.", file=sys.stderr)
    return 1


def _settings(options: argparse.Namespace) -> Settings:
    settings = get_settings()
    if options.data is None:
        return settings
    data = options.data.resolve()
    return settings.model_copy(
        update={
            "database_url": f"sqlite:///{data}/zeropoint.db",
            "storage_url": f"file://{data}/storage",
            "scratch_dir": data / "scratch",
        }
    )


def _doctor(options: argparse.Namespace, settings: Settings) -> int:
    findings = doctor.examine(settings, own_broker=options.data is not None)
    if options.json:
        print(json.dumps([finding.to_json() for finding in findings], indent=2))
    else:
        print("\n".join(map(str, findings)))
    return 1 if any(finding.holds is False for finding in findings) else 0


def _collect(_: argparse.Namespace, settings: Settings) -> int:
    with connected(settings) as sessions:
        collected = collect_garbage(sessions, open_storage(settings), settings)
    removed = collected.removed
    print(f"removed {collected.jobs} jobs, {removed.blobs} blobs ({removed.bytes} bytes), {removed.unfinished} uploads")
    return 0


def _back_up(options: argparse.Namespace, settings: Settings) -> int:
    print(back_up(settings, open_storage(settings), options.folder))
    return 0


def _restore(options: argparse.Namespace, settings: Settings) -> int:
    print(restore(settings, open_storage(settings), options.folder))
    return 0


WORK: dict[str, Callable[[argparse.Namespace, Settings], int]] = {
    "doctor": _doctor,
    "jobs": job_actions.run,
    "gc": _collect,
    "backup": _back_up,
    "restore": _restore,
}
