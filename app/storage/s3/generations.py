"""Names of objects: blobs/<sha256>/<generation>.

Each commit writes an object of its own, a generation of the blob, and nothing ever replaces one. So garbage collection
removes exactly what it saw, however long it thinks, and never what a commit wrote meanwhile: see `garbage`.

Beside a generation that came in parts there is an empty object, its stamp, written just before the parts were joined:
to S3 the object is as old as the beginning of its upload, which may have taken hours.
"""

import re
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby

from app.storage.layout import DIGEST
from app.storage.s3.bucket import Bucket

BLOBS = "blobs"
STAMP = ".stamp"

_NAME = re.compile(rf"({DIGEST.pattern})/([0-9a-f]{{32}})({re.escape(STAMP)})?")


@dataclass(frozen=True)
class Generation:
    """One object with the bytes of a blob, or a stamp without one (`bytes` is None); `at` is when it was committed."""

    key: str
    at: datetime
    bytes: int | None


@dataclass(frozen=True)
class Stored:
    """A blob in the bucket: its generations, at least one."""

    sha256: str
    generations: Sequence[Generation]

    @property
    def newest(self) -> Generation | None:
        """Return the generation that was committed last; None where there are only stamps."""
        whole = [generation for generation in self.generations if generation.bytes is not None]
        return max(whole, key=lambda generation: (generation.at, generation.key), default=None)


@dataclass(frozen=True)
class _Entry:
    """A line of the list of objects."""

    sha256: str
    generation: str
    is_stamp: bool
    at: datetime
    bytes: int


def new_key(bucket: Bucket, sha256: str) -> str:
    """Return the name of a new generation, which nobody else can come upon."""
    return bucket.key(BLOBS, sha256, secrets.token_hex(16))


def find(bucket: Bucket, sha256: str) -> Stored | None:
    """Return a blob. Raises FileNotFoundError for what is no digest, and errors of the library."""
    if not DIGEST.fullmatch(sha256):
        raise FileNotFoundError("That is not the name of a blob.")
    return next(stored(bucket, f"{sha256}/"), None)


def stored(bucket: Bucket, below: str = "") -> Iterator[Stored]:
    """Yield every blob whose name begins so. Raises errors of the library."""
    for sha256, entries in groupby(_entries(bucket, below), key=lambda entry: entry.sha256):
        # In the order of names: a stamp follows what it belongs to.
        groups = [list(group) for _, group in groupby(entries, key=lambda entry: entry.generation)]
        yield Stored(sha256, [_joined(bucket, group) for group in groups])


def _joined(bucket: Bucket, entries: Sequence[_Entry]) -> Generation:
    first = entries[0]
    key = bucket.key(BLOBS, first.sha256, first.generation)
    return Generation(key, max(entry.at for entry in entries), None if first.is_stamp else first.bytes)


def _entries(bucket: Bucket, below: str) -> Iterator[_Entry]:
    """Yield what is ours; other objects below the same name are left alone."""
    folder = f"{bucket.key(BLOBS)}/"
    for page in bucket.client.get_paginator("list_objects_v2").paginate(Bucket=bucket.name, Prefix=folder + below):
        for line in page.get("Contents", ()):
            if match := _NAME.fullmatch(line["Key"].removeprefix(folder)):
                yield _Entry(match[1], match[2], match[3] is not None, line["LastModified"], line["Size"])
