"""The layout of a storage folder: tmp/<random>, blobs/ab/cd/<sha256>, and the lock that commits share."""

import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

DIGEST = re.compile(r"[0-9a-f]{64}")
LOCK = "lock"


def blob_path(root: Path, sha256: str) -> Path:
    """Return the path of a blob. Raises FileNotFoundError for what is no digest: it must never become a path."""
    if not DIGEST.fullmatch(sha256):
        raise FileNotFoundError("That is not the name of a blob.")
    return root / "blobs" / sha256[:2] / sha256[2:4] / sha256


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def locked(root: Path, operation: int) -> Iterator[None]:
    """Hold the folder's lock, LOCK_SH or LOCK_EX, against every thread, process and host that uses the folder."""
    with _lock_file(root) as descriptor:
        fcntl.flock(descriptor, operation)
        try:
            yield
        finally:
            # Closing would not do: a process that was forked meanwhile still has it open, and so would hold the lock.
            fcntl.flock(descriptor, fcntl.LOCK_UN)


def present_ns(root: Path) -> int:
    """Return the time by the file system's clock, which gives files their times: a host's own may differ."""
    with _lock_file(root) as descriptor:
        os.utime(descriptor)
        return os.fstat(descriptor).st_mtime_ns


@contextmanager
def _lock_file(root: Path) -> Iterator[int]:
    # To be written: an exclusive lock on a network file system asks for that.
    descriptor = os.open(root / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
