"""Zip archives written byte by byte, so that they can lie; and what takes little room until it is unpacked."""

import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

STORED, DEFLATED = 0, 8


@dataclass
class Entry:
    """A member; what is None is told truly."""

    name: str
    data: bytes
    method: int = STORED
    bytes: int | None = None
    checksum: int | None = None
    packed_bytes: int | None = None
    offset: int | None = None
    mode: int = 0
    flags: int = 0


def deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return packer.compress(data) + packer.flush()


def deflated_zeros(mebibytes: int, before: bytes = b"") -> bytes:
    """A kibibyte for each mebibyte of zeros: one packed block, over and over."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    start = packer.compress(before) + packer.flush(zlib.Z_FULL_FLUSH)
    block = packer.compress(bytes(2**20)) + packer.flush(zlib.Z_FULL_FLUSH)
    return start + block * mebibytes + packer.flush()


def checksum_of_zeros(mebibytes: int, before: bytes = b"") -> int:
    checksum = zlib.crc32(before)
    for _ in range(mebibytes):
        checksum = zlib.crc32(bytes(2**20), checksum)
    return checksum


def write(path: Path, *entries: Entry, comment: bytes = b"", count: int | None = None) -> Path:
    body, directory = b"", b""
    for entry in entries:
        offset = len(body) if entry.offset is None else entry.offset
        plain = zlib.decompress(entry.data, -15) if entry.method == DEFLATED and entry.bytes is None else entry.data
        size = len(plain) if entry.bytes is None else entry.bytes
        checksum = zlib.crc32(plain) if entry.checksum is None else entry.checksum
        packed = len(entry.data) if entry.packed_bytes is None else entry.packed_bytes
        name = entry.name.encode()
        told = struct.pack("<5H3L2H", 20, entry.flags, entry.method, 0, 33, checksum, packed, size, len(name), 0)
        body += b"PK\3\4" + told + name + entry.data
        rest = struct.pack("<3H2L", 0, 0, 0, entry.mode << 16, offset)
        directory += b"PK\1\2" + struct.pack("<H", 0x0314) + told + rest + name
    total = len(entries) if count is None else count
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, total, total, len(directory), len(body), len(comment))
    path.write_bytes(body + directory + end + comment)
    return path
