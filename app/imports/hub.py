"""Folders of a Hugging Face hub, or of what speaks its paths: fetched file by file, and packed as a tar on the way.

The revision is resolved once, so that all files are of one commit. Only files are fetched that an upload of such a
folder keeps.
"""

import re
import tarfile
import time
from collections.abc import Iterator
from urllib.parse import quote

from pydantic import BaseModel, Field, ValidationError

from app.imports.rules import ImportRules, invalid, refusals, too_large
from app.imports.sources import Source
from app.imports.web import opened
from zeropoint.schema.checkpoint_files import kind_of

MOST_LIST_BYTES = 8 * 2**20
MOST_FILES = 1000

_MODULE = re.compile(r"[0-9]{1,2}_[A-Za-z]{1,32}/")
_COMMIT = re.compile(r"[0-9a-f]{40,64}")


class _File(BaseModel):
    rfilename: str = Field(max_length=512)


class _Revision(BaseModel):
    """What a hub says of a revision."""

    sha: str
    siblings: list[_File]


def stream(source: Source, rules: ImportRules, token: str | None) -> Iterator[bytes]:
    """Yield the tar of a repository's files. Raises Invalid, TooLarge, Unavailable."""
    until = time.monotonic() + rules.seconds
    revision = _revision(source, rules, until, token)
    names = wanted(file.rfilename for file in revision.siblings)
    if not names:
        raise invalid("The repository has none of the files of a Hugging Face folder.")
    left = rules.most_bytes
    for name in names:
        url = f"{rules.hub_endpoint}/{source.place}/resolve/{revision.sha}/{quote(name)}"
        with opened(url, rules.smaller(left), until, token) as answer, refusals(rules):
            size = _size(answer.headers.get("content-length"), name)
            left -= size + 2 * tarfile.BLOCKSIZE
            if left < 0:
                raise too_large(rules.most_bytes)
            yield _head(name, size)
            received = 0
            for chunk in answer.chunks():
                received += len(chunk)
                yield chunk
            if received != size:
                raise invalid(f"{name} has {received} bytes, and {size} were announced.")
            yield bytes(-size % tarfile.BLOCKSIZE)
    yield bytes(2 * tarfile.BLOCKSIZE)


def wanted(names: Iterator[str]) -> list[str]:
    """Return the files that an upload keeps: pickled weights only where there are no others."""
    kinds = {name: kind_of(name) or kind_of(_MODULE.sub("", name, count=1)) for name in names}
    safe = "weights" in kinds.values()
    pickled = ("pickled_weights", "pickled_index")
    return sorted(name for name, kind in kinds.items() if kind and not (safe and kind in pickled))


def _revision(source: Source, rules: ImportRules, until: float, token: str | None) -> _Revision:
    url = f"{rules.hub_endpoint}/api/models/{source.place}/revision/{quote(source.item, safe='')}"
    with opened(url, rules.smaller(MOST_LIST_BYTES), until, token) as answer, refusals(rules):
        body = b"".join(answer.chunks())
    try:
        revision = _Revision.model_validate_json(body)
    except ValidationError:
        raise invalid("The hub's answer is no description of a repository.") from None
    if not _COMMIT.fullmatch(revision.sha) or len(revision.siblings) > MOST_FILES:
        raise invalid(f"The hub names no commit, or more than {MOST_FILES} files.")
    return revision


def _size(header: str | None, name: str) -> int:
    if header is None or not header.isascii() or not header.isdigit():
        raise invalid(f"The hub does not say how many bytes {name} has.")
    return int(header[:18])


def _head(name: str, size: int) -> bytes:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = size, 0o644
    return entry.tobuf(tarfile.GNU_FORMAT)
