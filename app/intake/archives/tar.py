"""Read a tar from a stream, one header of 512 bytes at a time; memory stays constant whatever a header claims.

Supported are ustar and the extensions that today's tars write: long names (GNU) and extended headers (pax), each within
a size limit.
"""

import gzip
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from app.intake.limits import CHUNK_BYTES
from app.intake.parsing.strict_json import Refuse

BLOCK_BYTES = 512
MAX_EXTENDED_BYTES = 64 * 2**10
MAX_PADDING_BYTES = 2**20

_PAX, _PAX_OF_ALL, _LONG_NAME, _FOLDER = b"x", b"g", b"L", b"5"
_REGULAR = (b"0", b"\0")
_MAGICS = {b"ustar\x0000": "pax", b"ustar  \0": "gnu"}
_RECORD = re.compile(rb"\d{1,6} ([^=\n]{1,256})=([^\n]*)\n")


class Readable(Protocol):
    """A stream that a tar is read from."""

    def read(self, size: int, /) -> bytes:
        """Return the next bytes, fewer only at the end."""


@dataclass(frozen=True)
class TarEntry:
    """A member that is not a folder. Read its `chunks` to the end before asking for the next entry."""

    name: str
    regular: bool
    chunks: Iterator[bytes]


def read_tar(source: Readable, max_headers: int, refuse: Refuse) -> Iterator[TarEntry]:
    """Yield the members one after another. `refuse` creates the error to raise."""
    extended: dict[str, str] = {}
    for _ in range(max_headers + 1):
        header = _exactly(source, BLOCK_BYTES, refuse)
        if not any(header):
            _check_padding(source, refuse)
            return
        kind, size = header[156:157], _checked_size(header, refuse)
        if kind in (_PAX, _PAX_OF_ALL, _LONG_NAME):
            data = _extended(source, size, refuse)
            if kind == _PAX:
                extended |= _records(data, refuse)
            elif kind == _LONG_NAME:
                extended["path"] = _text(data.rstrip(b"\0"), refuse)
            continue
        size = _size(extended["size"], refuse) if "size" in extended else size
        if kind == _FOLDER and size:
            raise refuse("A folder in the archive has contents of its own.")
        if kind != _FOLDER:
            name = extended.get("path") or _name(header, refuse)
            yield TarEntry(name, kind in _REGULAR, _chunks(source, size, refuse))
        extended = {}
    raise refuse(f"The archive has more than {max_headers} members.")


def _exactly(source: Readable, size: int, refuse: Refuse) -> bytes:
    try:
        data = source.read(size)
    except (gzip.BadGzipFile, EOFError, zlib.error):
        raise refuse("The archive is damaged: it can't be unpacked.") from None
    if len(data) != size:
        raise refuse("The archive is cut off.")
    return data


def _chunks(source: Readable, size: int, refuse: Refuse) -> Iterator[bytes]:
    for done in range(0, size, CHUNK_BYTES):
        yield _exactly(source, min(CHUNK_BYTES, size - done), refuse)
    _exactly(source, -size % BLOCK_BYTES, refuse)


def _extended(source: Readable, size: int, refuse: Refuse) -> bytes:
    if size > MAX_EXTENDED_BYTES:
        raise refuse(f"The archive has a header of {size} bytes; at most {MAX_EXTENDED_BYTES} are read.")
    return b"".join(_chunks(source, size, refuse))


def _records(data: bytes, refuse: Refuse) -> dict[str, str]:
    """Return the path and size records of an extended header."""
    records = {}
    position = 0
    while match := _RECORD.match(data, position):
        if int(data[position : data.index(b" ", position)]) != match.end() - position:
            break
        records[match[1]] = match[2]
        position = match.end()
    if position != len(data) or any(key.startswith(b"GNU.sparse") for key in records):
        raise refuse("The archive has an extended header that is not supported.")
    return {key: _text(records[key.encode()], refuse) for key in ("path", "size") if key.encode() in records}


def _checked_size(header: bytes, refuse: Refuse) -> int:
    """Return the size in a header, after checking the header's checksum."""
    blank = header[:148] + b" " * 8 + header[156:]
    if header[257:265] not in _MAGICS or _octal(header[148:156], refuse) != sum(blank):
        raise refuse("The archive is not a tar, or damaged: a header's checksum differs.")
    return _octal(header[124:136], refuse)


def _octal(field: bytes, refuse: Refuse) -> int:
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    text = field.strip(b" \0")
    if not re.fullmatch(rb"[0-7]*", text):
        raise refuse("The archive has a header that can't be read.")
    return int(text or b"0", 8)


def _size(text: str, refuse: Refuse) -> int:
    if not re.fullmatch(r"[0-9]{1,18}", text):
        raise refuse("The archive has a header that can't be read.")
    return int(text)


def _name(header: bytes, refuse: Refuse) -> str:
    name = header[:100].split(b"\0")[0]
    prefix = header[345:500].split(b"\0")[0] if _MAGICS[header[257:265]] == "pax" else b""
    return _text(prefix + b"/" + name if prefix else name, refuse)


def _text(data: bytes, refuse: Refuse) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise refuse("A member of the archive has a name that is not UTF-8.") from None


def _check_padding(source: Readable, refuse: Refuse) -> None:
    """Read to the end, where gzip keeps its checksum; only zeros may follow the last member."""
    remaining = MAX_PADDING_BYTES
    try:
        while data := source.read(min(CHUNK_BYTES, remaining + 1)):
            remaining -= len(data)
            if any(data) or remaining < 0:
                raise refuse("Something follows the last member of the archive.")
    except (gzip.BadGzipFile, EOFError, zlib.error):
        raise refuse("The archive is damaged: it can't be unpacked.") from None
