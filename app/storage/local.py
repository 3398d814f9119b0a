"""Blobs in a folder: tmp/<random> while they are written, then blobs/ab/cd/<sha256>."""

import fcntl
import os
from collections.abc import Generator
from pathlib import Path

from app.storage.blobs import CHUNK_BYTES, Blob, BlobWriter, Download, Pause, Referenced, Removed
from app.storage.garbage import collect_garbage
from app.storage.layout import blob_path, locked, sync_folder
from app.storage.writing import GrowingFile, copy_checked, read_chunks


def folder_of(url: str) -> Path:
    """Return the folder of a `file:` URL, absolute (file:///a/b) or relative to the working directory (file:a/b)."""
    scheme, _, rest = url.partition(":")
    if scheme != "file" or not rest.removeprefix("//"):
        raise ValueError(
            "ZEROPOINT_STORAGE_URL must be file: and a folder, such as file:data/storage, or s3:// and a bucket."
        )
    return Path(rest.removeprefix("//")).resolve()


class LocalWriter(GrowingFile):
    """A file under tmp/ that becomes a blob by its new name."""

    def __init__(self, root: Path) -> None:
        super().__init__(root / "tmp")
        self._root = root

    def commit(self) -> Blob:
        descriptor = self._file.fileno()
        os.fsync(descriptor)
        os.fchmod(descriptor, 0o400)
        target = blob_path(self._root, self.sha256)
        target.parent.mkdir(parents=True, exist_ok=True)
        with locked(self._root, fcntl.LOCK_SH):
            os.utime(descriptor)  # a blob's age counts from here, however long ago its last byte came
            self.path.rename(target)
        self._file.close()
        for folder in (target.parent, target.parent.parent, target.parent.parent.parent):
            sync_folder(folder)
        return Blob(self.sha256, self.size)


class LocalStorage:
    """Blobs in one folder that only this service's user can read."""

    def __init__(self, root: Path) -> None:
        self._root = root
        for folder in (root, root / "tmp", root / "blobs"):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def writer(self) -> BlobWriter:
        return LocalWriter(self._root)

    def put_file(self, path: Path) -> Blob:
        with self.writer() as writer:
            for chunk in read_chunks(path):
                writer.write(chunk)
            return writer.commit()

    def fetch(self, sha256: str, path: Path) -> None:
        copy_checked(self.open(sha256), sha256, path)

    def path(self, sha256: str) -> Path:
        """Return where the file of a blob is. Raises FileNotFoundError for what is no digest."""
        return blob_path(self._root, sha256)

    def open(
        self, sha256: str, start: int = 0, length: int | None = None, chunk_bytes: int = CHUNK_BYTES
    ) -> Generator[bytes, None, None]:
        with self.path(sha256).open("rb") as file:
            file.seek(start)
            remaining = length
            while chunk := file.read(chunk_bytes if remaining is None else min(chunk_bytes, remaining)):
                remaining = None if remaining is None else remaining - len(chunk)
                yield chunk

    def signed_address(self, sha256: str, seconds: int, download: Download) -> str | None:  # noqa: ARG002
        return None  # nobody else serves the folder

    def delete(self, sha256: str) -> None:
        blob_path(self._root, sha256).unlink(missing_ok=True)

    def collect_garbage(self, older_than_seconds: float, referenced: Referenced) -> Removed:
        return collect_garbage(self._root, older_than_seconds, referenced)

    def check(self) -> None:
        with self.writer() as writer:
            writer.write(b"ready")

    def require_answer(self) -> None:
        """Do nothing: what is wrong with a folder shows when it is used."""

    def patient(self, pause: Pause) -> "LocalStorage":  # noqa: ARG002
        return self
