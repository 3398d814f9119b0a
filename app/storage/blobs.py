"""What every storage does. A blob is known by the sha256 of its bytes and never changes."""

import errno
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self


@dataclass(frozen=True)
class Blob:
    """Stored bytes: their hex sha256 and how many they are."""

    sha256: str
    bytes: int


class BlobDamaged(OSError):
    """A blob is gone, or its bytes are no longer those of its name."""


@dataclass(frozen=True)
class Swept:
    """What a sweep removed: blobs and their bytes, and uploads that were never finished."""

    blobs: int
    bytes: int
    unfinished: int


Referenced = Callable[[Sequence[str]], set[str]]
"""Says which of some digests a row names."""

NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""The errno of an OSError that says: the disk, the quota or the process may hold no more."""


class BlobWriter(Protocol):
    """Bytes on their way in. As a context manager it aborts what was not committed.

    Writing and committing raise OSError; its errno is in NO_ROOM when room is what is missing.
    """

    @property
    def path(self) -> Path:
        """A local file with what was written so far, for a check before the commit."""

    @property
    def sha256(self) -> str:
        """The hex digest of what was written so far."""

    @property
    def size(self) -> int:
        """How much was written so far."""

    def expect(self, size: int) -> None:
        """Raise OSError (NO_ROOM) when there is no room for so many more bytes; none is set aside."""

    def write(self, chunk: bytes) -> None:
        """Append bytes."""

    def commit(self) -> Blob:
        """Make the bytes durable and visible under their digest."""

    def abort(self) -> None:
        """Forget the bytes; does nothing after a commit."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Storage(Protocol):
    """A place for blobs. Digests are checked before they become a path; an unknown one raises FileNotFoundError."""

    def writer(self) -> BlobWriter:
        """Begin a new blob."""

    def put_file(self, path: Path) -> Blob:
        """Store a copy of a local file."""

    def fetch(self, sha256: str, path: Path) -> None:
        """Copy a blob into a new local file, checking its digest on the way. Raises BlobDamaged when it differs."""

    def path(self, sha256: str) -> Path:
        """A local file with the blob's bytes, to be read only."""

    def open(self, sha256: str, start: int = 0, length: int | None = None) -> Iterator[bytes]:
        """Read a blob, or a part of it, in chunks."""

    def delete(self, sha256: str) -> None:
        """Remove a blob; an unknown one is no error."""

    def sweep(self, older_than_seconds: float, referenced: Referenced) -> Swept:
        """Remove unreferenced blobs and unfinished uploads that are older than a grace time.

        The grace must be longer than a row may take to follow the commit of its blob; then no blob is removed that a
        row names, whoever commits and deletes meanwhile. Raises OSError, and what `referenced` raises.
        """

    def check(self) -> None:
        """Raise OSError when blobs can't be written."""
