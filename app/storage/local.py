"""Blobs in a folder: tmp/<random> while they are written, then blobs/ab/cd/<sha256>."""

import fcntl
import hashlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from app.room import require_room
from app.storage.blobs import Blob, BlobDamaged, BlobWriter, Referenced, Removed
from app.storage.garbage import collect_garbage
from app.storage.layout import blob_path, locked, sync_folder

CHUNK_BYTES = 2**20


def folder_of(url: str) -> Path:
    """Return the folder of a `file:` URL, absolute (file:///a/b) or relative to the working directory (file:a/b)."""
    scheme, _, rest = url.partition(":")
    if scheme != "file" or not rest.removeprefix("//"):
        raise ValueError("The storage URL must be file: and a folder, such as file:data/storage.")
    return Path(rest.removeprefix("//")).resolve()


class LocalWriter:
    """A file under tmp/ that is hashed while it grows."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._hash = hashlib.sha256()
        self.size = 0
        self.path = root / "tmp" / secrets.token_hex(16)
        self._file = self.path.open("xb", buffering=0)
        fcntl.flock(self._file, fcntl.LOCK_SH)  # while it is held, garbage collection leaves the file alone

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()

    def expect(self, size: int) -> None:
        require_room(self._file.fileno(), size)

    def write(self, chunk: bytes) -> None:
        self.expect(len(chunk))
        view = memoryview(chunk)
        while view:
            view = view[self._file.write(view) :]
        self._hash.update(chunk)
        self.size += len(chunk)

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

    def abort(self) -> None:
        try:
            self._file.close()
        finally:
            self.path.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.abort()


class LocalStorage:
    """Blobs in one folder that only this service's user can read."""

    def __init__(self, root: Path) -> None:
        self._root = root
        for folder in (root, root / "tmp", root / "blobs"):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def writer(self) -> BlobWriter:
        return LocalWriter(self._root)

    def put_file(self, path: Path) -> Blob:
        with self.writer() as writer, path.open("rb") as source:
            while chunk := source.read(CHUNK_BYTES):
                writer.write(chunk)
            return writer.commit()

    def fetch(self, sha256: str, path: Path) -> None:
        digest = hashlib.sha256()
        try:
            source = blob_path(self._root, sha256).open("rb")
        except FileNotFoundError as error:
            raise BlobDamaged(f"The blob {sha256} is gone.") from error
        with source, path.open("xb") as target:
            while chunk := source.read(CHUNK_BYTES):
                require_room(target.fileno(), len(chunk))
                digest.update(chunk)
                target.write(chunk)
        if digest.hexdigest() != sha256:
            path.unlink()
            raise BlobDamaged(f"The blob {sha256} was changed on disk.")

    def path(self, sha256: str) -> Path:
        path = blob_path(self._root, sha256)
        if not path.is_file():
            raise FileNotFoundError(f"There is no blob {sha256}.")
        return path

    def open(self, sha256: str, start: int = 0, length: int | None = None) -> Iterator[bytes]:
        with self.path(sha256).open("rb") as file:
            file.seek(start)
            remaining = length
            while chunk := file.read(CHUNK_BYTES if remaining is None else min(CHUNK_BYTES, remaining)):
                remaining = None if remaining is None else remaining - len(chunk)
                yield chunk

    def delete(self, sha256: str) -> None:
        blob_path(self._root, sha256).unlink(missing_ok=True)

    def collect_garbage(self, older_than_seconds: float, referenced: Referenced) -> Removed:
        return collect_garbage(self._root, older_than_seconds, referenced)

    def check(self) -> None:
        with self.writer() as writer:
            writer.write(b"ready")
