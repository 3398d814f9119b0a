"""What every storage promises."""

import hashlib
from pathlib import Path

import pytest

from app.settings import Settings
from app.storage import BlobDamaged, Storage, open_storage
from tests.app.storages import Kept, write
from tests.factories import content_of


@pytest.fixture
def storage(kept: Kept) -> Storage:
    return kept.storage


def test_a_blob_is_known_by_the_digest_of_its_bytes(storage: Storage, kept: Kept) -> None:
    sha256 = write(storage, b"hello")
    assert sha256 == hashlib.sha256(b"hello").hexdigest()
    assert (kept.blobs(), kept.leftovers()) == ([sha256], [])


def test_another_process_finds_it(storage: Storage, kept: Kept) -> None:
    assert content_of(kept.storage, write(storage, b"hello")) == b"hello"


def test_the_same_bytes_twice_are_one_blob(storage: Storage, kept: Kept) -> None:
    assert write(storage, b"hello") == write(storage, b"hello")
    assert len(kept.blobs()) == 1


def test_a_blob_without_bytes_is_one(storage: Storage) -> None:
    assert content_of(storage, write(storage, b"")) == b""


def test_what_was_not_committed_leaves_no_file(storage: Storage, kept: Kept) -> None:
    with storage.writer() as writer:
        writer.write(b"hello")
    assert kept.blobs() == kept.leftovers() == []


def test_a_writer_shows_what_was_written_so_far(storage: Storage) -> None:
    with storage.writer() as writer:
        writer.write(b"hello")
        assert (writer.path.read_bytes(), writer.size) == (b"hello", 5)
        assert writer.sha256 == hashlib.sha256(b"hello").hexdigest()


def test_a_writer_may_be_aborted_again(storage: Storage) -> None:
    with storage.writer() as writer:
        writer.write(b"hello")
        sha256 = writer.commit().sha256
        writer.abort()
    assert content_of(storage, sha256) == b"hello"


def test_put_file_copies(storage: Storage, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"hello")
    blob = storage.put_file(tmp_path / "file")
    assert (blob.bytes, content_of(storage, blob.sha256)) == (5, b"hello")
    assert (tmp_path / "file").exists()


def test_fetch_brings_the_bytes(storage: Storage, tmp_path: Path) -> None:
    storage.fetch(write(storage, b"hello"), tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == b"hello"


def test_fetch_refuses_bytes_that_were_changed_in_the_storage(storage: Storage, kept: Kept, tmp_path: Path) -> None:
    sha256 = write(storage, b"hello")
    kept.damage(sha256)
    with pytest.raises(BlobDamaged, match="changed in the storage"):
        storage.fetch(sha256, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_fetch_says_what_is_gone(storage: Storage, tmp_path: Path) -> None:
    with pytest.raises(BlobDamaged, match="gone"):
        storage.fetch("0" * 64, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


@pytest.mark.parametrize(
    ("start", "length", "expected"),
    [
        *((0, None, b"hello"), (1, 3, b"ell"), (3, 9, b"lo"), (0, 5, b"hello"), (2, None, b"llo")),
        *((5, None, b""), (9, None, b""), (9, 3, b""), (0, 0, b""), (2, 0, b"")),
    ],
)
def test_open_reads_a_part(storage: Storage, start: int, length: int | None, expected: bytes) -> None:
    assert b"".join(storage.open(write(storage, b"hello"), start, length)) == expected


def test_open_reads_in_chunks(storage: Storage) -> None:
    sha256 = write(storage, b"hello")
    assert list(storage.open(sha256, chunk_bytes=2)) == [b"he", b"ll", b"o"]


@pytest.mark.parametrize("name", ["../../etc/passwd", "a" * 63, "A" * 64, "0" * 64, "", "0" * 64 + "/"])
def test_a_name_that_is_no_blob_is_not_found(storage: Storage, name: str) -> None:
    with pytest.raises(FileNotFoundError):
        content_of(storage, name)


def test_delete_removes_and_may_be_repeated(storage: Storage, kept: Kept) -> None:
    sha256 = write(storage, b"hello")
    storage.delete(sha256)
    storage.delete(sha256)
    assert kept.blobs() == []
    with pytest.raises(FileNotFoundError):
        content_of(storage, sha256)


def test_check_leaves_nothing_that_looks_like_a_blob(storage: Storage, kept: Kept) -> None:
    storage.check()
    storage.check()
    assert kept.blobs() == kept.leftovers() == []


@pytest.mark.parametrize("url", ["ftp://host/a", "data/storage", "file:", "file://", "gs://bucket"])
def test_another_url_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="file: and a folder"):
        open_storage(Settings(storage_url=url))
