"""Folders of jobs, below one scratch folder: each is locked by the process that made it, for as long as that lives.

Nothing else says whose a folder is. What nobody has a lock on was left behind by a process that died, and is removed.
"""

import fcntl
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

SPARE_PREFIX = "spare-"

log = logging.getLogger(__name__)


class JobFolder:
    """A folder of ours; it may be moved, and its lock goes with it."""

    def __init__(self, path: Path, lock: int) -> None:
        self.path = path
        self._lock = lock

    def move(self, path: Path) -> None:
        """Give it another place."""
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.path.rename(path)
        self.path = path

    def remove(self) -> None:
        """Remove it with all that it holds, and its parent if that is empty now."""
        _remove(self.path)
        os.close(self._lock)


def make_folder(scratch: Path) -> JobFolder:
    """Make an empty folder that nobody else has."""
    scratch = scratch.resolve()
    scratch.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _cleaning_lock(scratch, fcntl.LOCK_SH):
        path = Path(tempfile.mkdtemp(prefix=SPARE_PREFIX, dir=scratch))
        return JobFolder(path, _lock(path))


def remove_stale(scratch: Path) -> int:
    """Remove what processes left behind that are no more; return how many folders that were."""
    if not scratch.is_dir():
        return 0
    scratch = scratch.resolve()
    with _cleaning_lock(scratch, fcntl.LOCK_EX):
        left = [path for path in _folders(scratch) if _is_left(path)]
    for path in left:
        _remove(path)
    if left:
        log.info("removed %s folders of processes that are no more", len(left))
    return len(left)


def _folders(scratch: Path) -> Iterator[Path]:
    """spare-<random>, and <job>/<token>."""
    for path in scratch.iterdir():
        if path.name.startswith(SPARE_PREFIX):
            yield path
        elif path.is_dir() and not path.is_symlink():
            with suppress(FileNotFoundError):  # its job ended meanwhile
                yield from path.iterdir()


def _remove(path: Path) -> None:
    shutil.rmtree(path, ignore_errors=True)
    if not path.name.startswith(SPARE_PREFIX):
        with suppress(OSError):  # another attempt's folder is there
            path.parent.rmdir()


def _is_left(path: Path) -> bool:
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
    """Between its making and its lock a folder must not look left behind."""
    with (scratch / "sweep.lock").open("w") as file:
        fcntl.flock(file, how)
        yield
