"""The protocol of every storage. A blob is known by the sha256 of its bytes and never changes."""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal, Protocol, Self

CHUNK_BYTES = 2**20


@dataclass(frozen=True)
class Blob:
    """Stored bytes: their hex sha256 and their number."""

    sha256: str
    bytes: int


class BlobDamaged(OSError):
    """A blob is gone, or its bytes no longer have the digest that names it."""


class StorageAway(OSError):
    """The storage does not answer, or refuses this service; nothing was changed, or nobody will see what was.

    The text is for operators and names no address. `lasting`: a setting or a permission has to be changed first.
    """

    def __init__(self, reason: str, *, lasting: bool = False) -> None:
        super().__init__(reason)
        self.lasting = lasting


@dataclass(frozen=True)
class Download:
    """How a signed address answers: for which method, under which file name, with which content type."""

    method: Literal["GET", "HEAD"]
    disposition: str | None
    media_type: str


@dataclass(frozen=True)
class Removed:
    """What garbage collection removed: blobs and their bytes, and uploads that were never finished."""

    blobs: int
    bytes: int
    unfinished: int


Pause = Callable[[int], bool]
"""Waits after the n-th try (from 1) that found the storage away; returns False where it is not to be asked again."""

Referenced = Callable[[Sequence[str]], set[str]]
"""Returns those of some digests that a row names."""


class BlobWriter(Protocol):
    """A blob that is being written. As a context manager it aborts what was not committed.

    Writing and committing raise OSError; its errno is in NO_ROOM when room is what is missing.
    """

    @property
    def path(self) -> Path:
        """Return a local file with what was written so far, for a check before the commit."""

    @property
    def sha256(self) -> str:
        """Return the hex digest of what was written so far."""

    @property
    def size(self) -> int:
        """Return how many bytes were written so far."""

    def expect(self, size: int) -> None:
        """Raise OSError (NO_ROOM) when there is no room for this many more bytes; no room is reserved."""

    def write(self, chunk: bytes) -> None:
        """Append bytes."""

    def commit(self) -> Blob:
        """Make the bytes durable and visible under their digest."""

    def abort(self) -> None:
        """Discard the bytes; do nothing after a commit."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Storage(Protocol):
    """A place for blobs. Digests are checked before they become a path; an unknown one raises FileNotFoundError.

    Where the storage is a service of its own, each method but `signed_address` raises StorageAway while it is away.
    """

    def writer(self) -> BlobWriter:
        """Begin a new blob."""

    def put_file(self, path: Path) -> Blob:
        """Store a copy of a local file."""

    def fetch(self, sha256: str, path: Path) -> None:
        """Copy a blob into a new local file, checking its digest on the way. Raises BlobDamaged when it differs."""

    def open(
        self, sha256: str, start: int = 0, length: int | None = None, chunk_bytes: int = CHUNK_BYTES
    ) -> Generator[bytes, None, None]:
        """Yield the bytes of a blob, or of a part of it, in chunks. Who stops before the end closes it."""

    def signed_address(self, sha256: str, seconds: int, download: Download) -> str | None:
        """Return an address from which anybody may download a blob for a while; None where storage offers none."""

    def delete(self, sha256: str) -> None:
        """Remove a blob; an unknown one is no error."""

    def collect_garbage(self, older_than_seconds: float, referenced: Referenced) -> Removed:
        """Remove unreferenced blobs and unfinished uploads that are older than a grace time.

        The grace must be longer than a row may take to follow the commit of its blob. Then no blob is removed that a
        row names, whoever commits and deletes meanwhile. Raises OSError, and what `referenced` raises.
        """

    def check(self) -> None:
        """Raise OSError when blobs can't be written."""

    def require_answer(self) -> None:
        """Raise StorageAway when the storage is away; cheaper than `check`, and nothing where it is a folder."""

    def patient(self, pause: Pause) -> "Storage":
        """Return this storage, which stores and fetches again and again while it is away, as long as `pause` says."""
