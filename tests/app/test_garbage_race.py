"""Commits and garbage collections of the same blobs at the same moment, thousands of times: none is lost."""

import hashlib
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from threading import Barrier, Thread

import pytest

from app.storage import BlobWriter, Removed
from app.storage.local import LocalStorage

SECONDS = 3
DAY = 24 * 3600
SHARED_MEMORY = Path("/dev/shm")
# In the order in which a collection comes to them, so that both are at the same blob as often as can be.
CONTENTS = sorted((b"%d" % number for number in range(100)), key=lambda data: hashlib.sha256(data).hexdigest())


@pytest.fixture
def local() -> Iterator[LocalStorage]:
    """A storage in memory, where possible: a disk that syncs would keep commits far behind collections."""
    with tempfile.TemporaryDirectory(dir=SHARED_MEMORY if SHARED_MEMORY.is_dir() else None) as folder:
        yield LocalStorage(Path(folder))


@pytest.fixture
def _impatient() -> Iterator[None]:
    """Threads take turns after every few instructions."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


def written(storage: LocalStorage, data: bytes) -> BlobWriter:
    writer = storage.writer()
    writer.write(data)
    return writer


def commit_at(start: Barrier, writers: list[BlobWriter]) -> None:
    start.wait()
    for writer in writers:
        writer.commit()


def race(storage: LocalStorage, paths: list[Path]) -> Removed:
    """All blobs are old and without a row, and an upload of each has arrived, when a collection asks for rows."""
    past = time.time() - 2 * DAY
    for path in paths:
        os.utime(path, (past, past))
    start = Barrier(2)
    committing = Thread(target=commit_at, args=(start, [written(storage, data) for data in CONTENTS]))
    committing.start()

    def no_row_yet(_digests: Sequence[str]) -> set[str]:
        start.wait()
        return set()

    removed = storage.collect_garbage(DAY, no_row_yet)
    committing.join()
    return removed


@pytest.mark.usefixtures("_impatient")
def test_a_blob_that_is_committed_while_garbage_is_collected_is_there(local: LocalStorage) -> None:
    """The row that follows the commit would name it."""
    paths = [local.path(written(local, data).commit().sha256) for data in CONTENTS]
    end = time.monotonic() + SECONDS
    removed = 0
    while time.monotonic() < end:
        removed += race(local, paths).blobs
        assert [path.name for path in paths if not path.is_file()] == []
    assert removed > 0
