"""Commits and garbage collections of the same blobs at the same moment, thousands of times: none is lost."""

import hashlib
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from threading import Barrier, Thread

import pytest

from app.storage import BlobWriter, Removed
from tests.app.storages import DAY, Folder, InBucket, Kept, is_there, write

SECONDS = 3
SHARED_MEMORY = Path("/dev/shm")
# In the order in which a collection comes to them, so that both are at the same blob as often as can be.
CONTENTS = sorted((b"%d" % number for number in range(100)), key=lambda data: hashlib.sha256(data).hexdigest())


@pytest.fixture(params=["folder", "s3"])
def kept(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Kept]:
    """A storage in memory, where possible: a disk that syncs would keep commits far behind collections."""
    if request.param == "s3":
        yield InBucket(request.getfixturevalue("bucket"), tmp_path)
        return
    with tempfile.TemporaryDirectory(dir=SHARED_MEMORY if SHARED_MEMORY.is_dir() else None) as folder:
        yield Folder(Path(folder))


@pytest.fixture
def _impatient() -> Iterator[None]:
    """Threads take turns after every few instructions."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


def written(kept: Kept, data: bytes) -> BlobWriter:
    writer = kept.storage.writer()
    writer.write(data)
    return writer


def commit_at(start: Barrier, writers: list[BlobWriter]) -> None:
    start.wait()
    for writer in writers:
        writer.commit()


def race(kept: Kept, contents: Sequence[bytes], digests: Sequence[str]) -> Removed:
    """All blobs are old and without a row, and an upload of each has arrived, when a collection asks for rows."""
    for sha256 in digests:
        kept.age(sha256)
    start = Barrier(2)
    committing = Thread(target=commit_at, args=(start, [written(kept, data) for data in contents]))
    committing.start()

    def no_row_yet(_digests: Sequence[str]) -> set[str]:
        start.wait()
        return set()

    removed = kept.storage.collect_garbage(DAY, no_row_yet)
    committing.join()
    return removed


@pytest.mark.usefixtures("_impatient")
def test_a_blob_that_is_committed_while_garbage_is_collected_is_there(kept: Kept) -> None:
    """The row that follows the commit would name it."""
    contents = CONTENTS if isinstance(kept, Folder) else CONTENTS[::5]
    storage = kept.storage
    digests = [write(storage, data) for data in contents]
    end = time.monotonic() + SECONDS
    removed = 0
    while time.monotonic() < end:
        removed += race(kept, contents, digests).blobs
        assert [sha256 for sha256 in digests if not is_there(storage, sha256)] == []
    assert removed > 0
