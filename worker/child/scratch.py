"""Folders of jobs, below one scratch folder: each is locked by the process that made it, as long as that lives.

A folder without a lock was left by a process that died, and is removed.
"""

import fcntl
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from app.storage import SCRATCH_NAME

WAITING_PREFIX = "spare-"

log = logging.getLogger(__name__)


class JobFolder:
    """A folder that this process has locked; it may be moved, and keeps its lock."""

    def __init__(self, path: Path, lock: int) -> None:
        self.path = path
        self._lock = lock

    def move(self, path: Path) -> None:
        """Move the folder to another path."""
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.path.rename(path)
        self.path = path

    def remove(self) -> None:
        """Remove the folder with its content, and its parent if that is empty then."""
        _remove(self.path)
        os.close(self._lock)


def make_folder(scratch: Path) -> JobFolder:
    """Make an empty folder that nobody else has."""
    scratch = scratch.resolve()
    scratch.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _cleaning_lock(scratch, fcntl.LOCK_SH):
        path = Path(tempfile.mkdtemp(prefix=WAITING_PREFIX, dir=scratch))
        return JobFolder(path, _lock(path))


def remove_stale(scratch: Path) -> int:
    """Remove the folders of processes that no longer exist; return how many there were."""
    if not scratch.is_dir():
        return 0
    scratch = scratch.resolve()
    with _cleaning_lock(scratch, fcntl.LOCK_EX):
        stale = [path for path in _folders(scratch) if _is_stale(path)]
    for path in stale:
        _remove(path)
    if stale:
        log.info("removed %s folders of processes that no longer exist", len(stale))
    return len(stale)


def _folders(scratch: Path) -> Iterator[Path]:
    """Yield the folders of processes: spare-<random> and <job>/<token>; another one is the storage's own."""
    for path in scratch.iterdir():
        if path.name.startswith(WAITING_PREFIX):
            yield path
        elif path.is_dir() and not path.is_symlink() and path.name != SCRATCH_NAME:
            with suppress(FileNotFoundError):  # its job ended meanwhile
                yield from path.iterdir()


def _remove(path: Path) -> None:
    shutil.rmtree(path, ignore_errors=True)
    if not path.name.startswith(WAITING_PREFIX):
        with suppress(OSError):  # another attempt's folder is there
            path.parent.rmdir()


def _is_stale(path: Path) -> bool:
    try:
        os.close(_lock(path))
    except OSError:  # somebody has it, or it is gone meanwhile
        return False
    return True


def _lock(path: Path) -> int:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


@contextmanager
def _cleaning_lock(scratch: Path, how: int) -> Iterator[None]:
    """Hold the scratch folder's lock: between its creation and its own lock, a job's folder must not look stale."""
    with (scratch / "sweep.lock").open("w") as file:
        fcntl.flock(file, how)
        yield
