import hashlib
import stat
from pathlib import Path

import pytest

from app.storage import open_storage
from app.storage.local import LocalStorage


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "storage"


@pytest.fixture
def local(root: Path) -> LocalStorage:
    return LocalStorage(root)


def files(root: Path) -> list[Path]:
    return [path for path in root.glob("*/**/*") if path.is_file()]


def write(storage: LocalStorage, data: bytes) -> str:
    with storage.writer() as writer:
        writer.write(data)
        return writer.commit().sha256


def test_a_blob_is_known_by_the_digest_of_its_bytes(local: LocalStorage, root: Path) -> None:
    sha256 = write(local, b"hello")
    assert sha256 == hashlib.sha256(b"hello").hexdigest()
    assert files(root) == [root / "blobs" / sha256[:2] / sha256[2:4] / sha256]


def test_a_blob_can_not_be_written_to(local: LocalStorage) -> None:
    assert stat.S_IMODE(local.path(write(local, b"hello")).stat().st_mode) == 0o400


def test_the_same_bytes_twice_are_one_blob(local: LocalStorage, root: Path) -> None:
    assert write(local, b"hello") == write(local, b"hello")
    assert len(files(root)) == 1


def test_what_was_not_committed_leaves_no_file(local: LocalStorage, root: Path) -> None:
    with local.writer() as writer:
        writer.write(b"hello")
    assert files(root) == []


def test_a_writer_shows_what_was_written_so_far(local: LocalStorage) -> None:
    with local.writer() as writer:
        writer.write(b"hello")
        assert (writer.path.read_bytes(), writer.size) == (b"hello", 5)


def test_put_file_copies(local: LocalStorage, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"hello")
    blob = local.put_file(tmp_path / "file")
    assert (blob.bytes, local.path(blob.sha256).read_bytes()) == (5, b"hello")


def test_fetch_brings_the_bytes(local: LocalStorage, tmp_path: Path) -> None:
    local.fetch(write(local, b"hello"), tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == b"hello"


def test_fetch_refuses_bytes_that_were_changed_on_disk(local: LocalStorage, tmp_path: Path) -> None:
    sha256 = write(local, b"hello")
    path = local.path(sha256)
    path.chmod(0o600)
    path.write_bytes(b"jello")
    with pytest.raises(OSError, match="changed on disk"):
        local.fetch(sha256, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


@pytest.mark.parametrize(("start", "length", "expected"), [(0, None, b"hello"), (1, 3, b"ell"), (3, 9, b"lo")])
def test_open_reads_a_part(local: LocalStorage, start: int, length: int | None, expected: bytes) -> None:
    assert b"".join(local.open(write(local, b"hello"), start, length)) == expected


@pytest.mark.parametrize("name", ["../../etc/passwd", "a" * 63, "A" * 64, "0" * 64])
def test_a_name_that_is_no_blob_is_not_found(local: LocalStorage, name: str) -> None:
    with pytest.raises(FileNotFoundError):
        local.path(name)


def test_delete_removes_and_may_be_repeated(local: LocalStorage, root: Path) -> None:
    sha256 = write(local, b"hello")
    local.delete(sha256)
    local.delete(sha256)
    assert files(root) == []


def test_check_fails_when_nothing_can_be_written(local: LocalStorage, root: Path) -> None:
    local.check()
    (root / "tmp").rmdir()
    with pytest.raises(OSError, match="tmp"):
        local.check()


def test_a_relative_url_is_below_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    open_storage("file:data/storage")
    assert (tmp_path / "data" / "storage" / "blobs").is_dir()


@pytest.mark.parametrize("url", ["s3://bucket", "data/storage", "file:", "file://"])
def test_another_url_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="file: and a folder"):
        open_storage(url)
