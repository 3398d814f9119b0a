"""Each kind of storage, as a test looks at it from outside: what is there, how old it is, what became of it."""

import hashlib
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from app.settings import Settings
from app.storage import LocalStorage, Storage, open_storage
from tests.factories import content_of
from tests.s3 import TestBucket

DAY = 24 * 3600
TWO_DAYS = 2 * DAY


class Kept(Protocol):
    """A storage of a test's own."""

    @property
    def storage(self) -> Storage: ...

    def blobs(self) -> list[str]:
        """Return the digests that something is stored under, in order."""

    def leftovers(self) -> list[str]:
        """Return what is there beside blobs."""

    def age(self, sha256: str) -> None:
        """Let two days pass for a blob."""

    def damage(self, sha256: str) -> None:
        """Change bytes of a blob behind the storage's back."""


@dataclass(frozen=True)
class Folder:
    """A storage in a folder."""

    root: Path

    @property
    def storage(self) -> LocalStorage:
        return LocalStorage(self.root)

    def blobs(self) -> list[str]:
        return sorted(path.name for path in self.root.glob("blobs/*/*/*"))

    def leftovers(self) -> list[str]:
        return [path.name for path in (self.root / "tmp").iterdir()]

    def age(self, sha256: str) -> None:
        past = time.time() - TWO_DAYS
        os.utime(self.storage.path(sha256), (past, past))

    def damage(self, sha256: str) -> None:
        path = self.storage.path(sha256)
        path.chmod(0o600)
        path.write_bytes(b"x" * path.stat().st_size)


@dataclass(frozen=True)
class InBucket:
    """A storage in a bucket, with its local folder."""

    bucket: TestBucket
    scratch: Path

    @property
    def settings(self) -> Settings:
        return Settings(
            storage_url=self.bucket.url, storage_endpoint=self.bucket.server.address, scratch_dir=self.scratch
        )

    @property
    def storage(self) -> Storage:
        return open_storage(self.settings)

    def objects(self, sha256: str) -> list[str]:
        """Return the names of the objects of a blob."""
        return self.bucket.names(f"blobs/{sha256}/")

    def blobs(self) -> list[str]:
        return sorted({name.split("/")[1] for name in self.bucket.names()})

    def leftovers(self) -> list[str]:
        local = self.scratch.glob("storage/*")
        return [path.name for path in local if path.name != "lock"] + self.bucket.uploads()

    def age(self, sha256: str) -> None:
        self.bucket.age(f"blobs/{sha256}/", TWO_DAYS)

    def damage(self, sha256: str) -> None:
        for name in self.objects(sha256):
            self.bucket.put(name, b"jello")


def write(storage: Storage, data: bytes) -> str:
    """Store bytes; return their digest."""
    with storage.writer() as writer:
        writer.write(data)
        return writer.commit().sha256


def is_there(storage: Storage, sha256: str) -> bool:
    """Whether a blob can be read, and is what its name says."""
    try:
        return hashlib.sha256(content_of(storage, sha256)).hexdigest() == sha256
    except FileNotFoundError:
        return False
