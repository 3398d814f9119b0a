"""Write a fresh zip: stored members, one root folder, a fixed time; the same members always give the same bytes.

The archive is written in one forward pass, so that it can go through a pipe, and always in the 64-bit form, so that no
size is a special case. Data begins at a multiple of 64 bytes, as torch's memory mapping requires.
"""

import struct
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from app.intake.archives.zip_records import END, END64, LOCAL, LOCATOR64

ROOT = "model"
ALIGNMENT = 64

_CENTRAL = struct.Struct("<4s6H3L5H2L")
_VERSION, _DATE, _IN_EXTRA = 45, 0x21, 0xFFFFFFFF
_PADDING_ID = 0x4246

Chunks = Callable[[], Iterable[bytes]]


@dataclass(frozen=True)
class Member:
    """A member: its name below the root folder, its size and checksum, and the source of its bytes."""

    name: str
    size: int
    crc: int
    chunks: Chunks


def member_of(name: str, content: bytes) -> Member:
    """Return a member whose bytes are in memory."""
    return Member(name, len(content), zlib.crc32(content), lambda: [content])


def archive_of(members: Iterable[Member]) -> Iterator[bytes]:
    """Yield the bytes of the archive. Raises ValueError when a member does not have its declared size."""
    offset, directory = 0, b""
    count = 0
    for member in members:
        header = _header(member, offset)
        yield header
        written = 0
        for chunk in member.chunks():
            written += len(chunk)
            yield chunk
        if written != member.size:
            raise ValueError(f"{member.name} has {written} bytes instead of {member.size}")
        directory += _entry(member, offset)
        offset += len(header) + member.size
        count += 1
    yield directory + _end(count, len(directory), offset)


def _header(member: Member, offset: int) -> bytes:
    name = f"{ROOT}/{member.name}".encode()
    sizes = struct.pack("<2H2Q", 1, 16, member.size, member.size)
    padding = -(offset + LOCAL.size + len(name) + len(sizes) + 4) % ALIGNMENT
    extra = sizes + struct.pack("<2H", _PADDING_ID, padding) + bytes(padding)
    fields = (_VERSION, 0, 0, 0, _DATE, member.crc, _IN_EXTRA, _IN_EXTRA, len(name), len(extra))
    return LOCAL.pack(b"PK\3\4", *fields) + name + extra


def _entry(member: Member, offset: int) -> bytes:
    name = f"{ROOT}/{member.name}".encode()
    extra = struct.pack("<2H3Q", 1, 24, member.size, member.size, offset)
    fields = (_VERSION, _VERSION, 0, 0, 0, _DATE, member.crc, _IN_EXTRA, _IN_EXTRA, len(name), len(extra), 0, 0, 0, 0)
    return _CENTRAL.pack(b"PK\1\2", *fields, _IN_EXTRA) + name + extra


def _end(count: int, directory_bytes: int, start: int) -> bytes:
    record = END64.pack(b"PK\6\6", 44, _VERSION, _VERSION, 0, 0, count, count, directory_bytes, start)
    locator = LOCATOR64.pack(b"PK\6\7", 0, start + directory_bytes, 1)
    return record + locator + END.pack(b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, _IN_EXTRA, _IN_EXTRA, 0)
