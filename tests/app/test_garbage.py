"""Garbage collection: what is in use stays, what nobody needs goes, whoever writes meanwhile."""

import fcntl
import hashlib
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from app.storage import Removed
from app.storage.garbage import BATCH
from app.storage.layout import blob_path, locked
from app.storage.local import LocalStorage
from tests.app.storages import DAY, TWO_DAYS, Folder, Kept, is_there, write


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "storage"


@pytest.fixture
def local(root: Path) -> LocalStorage:
    return LocalStorage(root)


def age(path: Path) -> None:
    """Two days pass for a file."""
    past = time.time() - TWO_DAYS
    os.utime(path, (past, past))


def write_long_ago(kept: Kept, data: bytes) -> str:
    sha256 = write(kept.storage, data)
    kept.age(sha256)
    return sha256


def nothing(_digests: Sequence[str]) -> set[str]:
    return set()


def test_an_old_blob_that_nothing_names_is_removed(kept: Kept) -> None:
    sha256 = write_long_ago(kept, b"hello")
    assert kept.storage.collect_garbage(DAY, nothing) == Removed(blobs=1, bytes=5, unfinished=0)
    assert (kept.blobs(), is_there(kept.storage, sha256)) == ([], False)


def test_a_blob_that_a_row_names_stays_however_old(kept: Kept) -> None:
    sha256 = write_long_ago(kept, b"hello")
    assert kept.storage.collect_garbage(DAY, set) == Removed(0, 0, 0)
    assert is_there(kept.storage, sha256)


def test_a_fresh_blob_stays_though_no_row_names_it_yet(kept: Kept) -> None:
    sha256 = write(kept.storage, b"hello")
    assert kept.storage.collect_garbage(DAY, nothing) == Removed(0, 0, 0)
    assert is_there(kept.storage, sha256)


def test_a_blob_is_as_old_as_its_commit_not_as_its_last_byte(kept: Kept) -> None:
    with kept.storage.writer() as writer:
        writer.write(b"hello")
        age(writer.path)
        sha256 = writer.commit().sha256
    assert kept.storage.collect_garbage(DAY, nothing) == Removed(0, 0, 0)
    assert is_there(kept.storage, sha256)


def test_a_commit_of_equal_bytes_makes_a_blob_fresh(kept: Kept) -> None:
    sha256 = write_long_ago(kept, b"hello")
    write(kept.storage, b"hello")
    kept.storage.collect_garbage(DAY, nothing)
    assert is_there(kept.storage, sha256)


def test_who_has_a_blob_open_reads_it_to_its_end(kept: Kept) -> None:
    data = os.urandom(3 * 2**20)
    reading = kept.storage.open(write_long_ago(kept, data))
    begun = next(reading)
    assert kept.storage.collect_garbage(DAY, nothing).blobs == 1
    assert begun + b"".join(reading) == data


def test_bytes_committed_again_while_the_database_is_asked_stay(kept: Kept) -> None:
    """Even when the answer takes longer than the grace: age counts from before the question."""
    sha256 = write_long_ago(kept, b"hello")

    def uploaded_meanwhile(_digests: Sequence[str]) -> set[str]:
        write(kept.storage, b"hello")
        time.sleep(1.3)
        return set()

    kept.storage.collect_garbage(0.1, uploaded_meanwhile)
    assert is_there(kept.storage, sha256)


def test_an_upload_that_somebody_still_writes_stays_however_slow(kept: Kept) -> None:
    with kept.storage.writer() as writer:
        writer.write(b"hello")
        age(writer.path)
        assert kept.storage.collect_garbage(DAY, nothing) == Removed(0, 0, 0)
        assert is_there(kept.storage, writer.commit().sha256)


def test_what_a_killed_process_left_is_removed_once_it_is_old(kept: Kept) -> None:
    """A file, and where the gate unpacked one."""
    storage = kept.storage
    with storage.writer() as writer:
        tmp = writer.path.parent
    (tmp / "a").write_bytes(b"left by a process that was killed")
    for name in ("old", "new"):
        (tmp / name).mkdir()
        (tmp / name / "0.json").touch()
    assert storage.collect_garbage(DAY, nothing) == Removed(0, 0, 0)
    age(tmp / "a")
    age(tmp / "old")
    assert storage.collect_garbage(DAY, nothing) == Removed(0, 0, unfinished=2)
    assert kept.leftovers() == ["new"]


def test_the_database_is_asked_in_batches(local: LocalStorage, root: Path) -> None:
    digests = [hashlib.sha256(str(number).encode()).hexdigest() for number in range(BATCH + 7)]
    for path in (blob_path(root, sha256) for sha256 in digests):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        age(path)
    asked: list[Sequence[str]] = []

    def odd_ones(batch: Sequence[str]) -> set[str]:
        asked.append(batch)
        return set(digests[1::2])

    assert local.collect_garbage(DAY, odd_ones).blobs == len(digests[::2])
    assert [len(batch) for batch in asked] == [BATCH, 7]
    assert all(blob_path(root, sha256).is_file() for sha256 in digests[1::2])


def test_a_file_that_is_no_blob_is_left_alone(local: LocalStorage, root: Path) -> None:
    write(local, b"hello")
    stranger = next((root / "blobs").glob("*/*")) / "lost+found"
    stranger.touch()
    age(stranger)
    assert local.collect_garbage(DAY, nothing) == Removed(0, 0, 0)
    assert stranger.exists()


def test_a_collection_waits_for_a_commit_and_sees_it(local: LocalStorage, root: Path) -> None:
    path = local.path(write_long_ago(Folder(root), b"hello"))
    with locked(root, fcntl.LOCK_SH):
        collecting = in_background(lambda: local.collect_garbage(DAY, nothing))
        collecting.join(0.3)
        assert collecting.is_alive()
        os.utime(path)
    collecting.join(5)
    assert path.is_file()


def test_a_commit_waits_for_a_collection_that_is_about_to_unlink(local: LocalStorage, root: Path) -> None:
    sha256 = write_long_ago(Folder(root), b"hello")
    with locked(root, fcntl.LOCK_EX):
        committing = in_background(lambda: write(local, b"hello"))
        committing.join(0.3)
        assert committing.is_alive()
        local.path(sha256).unlink()
    committing.join(5)
    assert local.path(sha256).read_bytes() == b"hello"


def test_commits_do_not_wait_for_each_other(local: LocalStorage, root: Path) -> None:
    with locked(root, fcntl.LOCK_SH):
        assert local.path(write(local, b"hello")).is_file()


def test_a_forked_process_does_not_go_on_to_hold_the_lock(root: Path, local: LocalStorage) -> None:
    """A worker's pool forks at any time, and its child has every file that was open then."""
    with locked(root, fcntl.LOCK_EX):
        child = os.fork()
        if child == 0:
            signal.pause()
    try:
        with locked(root, fcntl.LOCK_EX | fcntl.LOCK_NB):
            pass
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def in_background(work: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread
