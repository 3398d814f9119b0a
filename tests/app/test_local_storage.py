"""What a storage in a folder promises beside what every storage does."""

import stat
from pathlib import Path

import pytest

from app.settings import Settings
from app.storage import LocalStorage, open_storage
from tests.app.storages import write


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "storage"


@pytest.fixture
def local(root: Path) -> LocalStorage:
    return LocalStorage(root)


def test_a_blob_is_a_file_by_its_name(local: LocalStorage, root: Path) -> None:
    sha256 = write(local, b"hello")
    assert local.path(sha256) == root / "blobs" / sha256[:2] / sha256[2:4] / sha256


def test_a_blob_can_not_be_written_to(local: LocalStorage) -> None:
    assert stat.S_IMODE(local.path(write(local, b"hello")).stat().st_mode) == 0o400


def test_check_fails_when_nothing_can_be_written(local: LocalStorage, root: Path) -> None:
    local.check()
    (root / "tmp").rmdir()
    with pytest.raises(OSError, match="tmp"):
        local.check()


def test_a_relative_url_is_below_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    open_storage(Settings(storage_url="file:data/storage"))
    assert (tmp_path / "data" / "storage" / "blobs").is_dir()
