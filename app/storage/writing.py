"""Files that grow while they are hashed, before they become blobs; and copies that are checked on the way."""

import fcntl
import hashlib
import secrets
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from app.room import require_room
from app.storage.blobs import CHUNK_BYTES, BlobDamaged


class GrowingFile:
    """A new file in a folder, hashed while it grows. As a context manager it removes the file in the end."""

    def __init__(self, folder: Path) -> None:
        self._hash = hashlib.sha256()
        self.size = 0
        self.path = folder / secrets.token_hex(16)
        self._file = self.path.open("xb", buffering=0)
        fcntl.flock(self._file, fcntl.LOCK_SH)  # while it is held, garbage collection leaves the file alone

    @property
    def sha256(self) -> str:
        """Return the hex digest of what was written so far."""
        return self._hash.hexdigest()

    def expect(self, size: int) -> None:
        """Raise OSError (NO_ROOM) when there is no room for this many more bytes."""
        require_room(self._file.fileno(), size)

    def write(self, chunk: bytes) -> None:
        """Append bytes. Raises OSError."""
        self.expect(len(chunk))
        view = memoryview(chunk)
        while view:
            view = view[self._file.write(view) :]
        self._hash.update(chunk)
        self.size += len(chunk)

    def abort(self) -> None:
        """Remove the file, if it is still there."""
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


def read_chunks(path: Path) -> Iterator[bytes]:
    """Yield the content of a file in chunks. Raises OSError."""
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            yield chunk


def copy_checked(chunks: Iterable[bytes], sha256: str, path: Path) -> None:
    """Write a blob's chunks into a new file. Raises BlobDamaged, and leaves no file, when they are not the blob's."""
    digest = hashlib.sha256()
    with path.open("xb") as target:
        try:
            for chunk in chunks:
                require_room(target.fileno(), len(chunk))
                digest.update(chunk)
                target.write(chunk)
        except FileNotFoundError as error:
            path.unlink()
            raise BlobDamaged(f"The blob {sha256} is gone.") from error
        except BaseException:
            with suppress(OSError):
                path.unlink()  # another try makes it again
            raise
    if digest.hexdigest() != sha256:
        path.unlink()
        raise BlobDamaged(f"The blob {sha256} was changed in the storage.")
