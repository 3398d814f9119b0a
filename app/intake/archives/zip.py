"""Read a zip whose members may be deflated, as streams; memory stays constant whatever a member unpacks to.

A member's claims are checked before it is read, and compared with its contents while it is read. Archives of
torch.export, whose members are stored, have a stricter reader (`stored_zip`).
"""

import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from app.intake.archives.zip_records import LOCAL, directory_start, record_at
from app.intake.limits import CHUNK_BYTES
from app.intake.parsing.strict_json import Refuse

MAGIC = b"PK\3\4"

_ENCRYPTED = 0x1
_INPUT_BYTES = 2**16


@dataclass(frozen=True)
class Member:
    """A member as the directory describes it. `mode` is the file's type and permissions, 0 if the writer omitted it."""

    name: str
    bytes: int
    start: int
    packed_bytes: int
    checksum: int
    deflated: bool
    mode: int

    @property
    def regular(self) -> bool:
        """Return whether it is neither a link nor a device."""
        return stat.S_IFMT(self.mode) in (0, stat.S_IFREG)


def read_members(path: Path, max_members: int, refuse: Refuse) -> tuple[Member, ...]:
    """Return the directory's members without folders. `refuse` creates the error to raise."""
    with path.open("rb") as file:
        limit = directory_start(file, max_members, max_members * 512, refuse)
        try:
            entries = zipfile.ZipFile(file).infolist()
        except (zipfile.BadZipFile, UnicodeDecodeError, ValueError, struct.error, OverflowError, NotImplementedError):
            raise refuse("The archive's directory can't be read.") from None
        if len(entries) > max_members:
            raise refuse(f"The archive has {len(entries)} members; at most {max_members} are read.")
        free = 0
        members = []
        for entry in sorted(entries, key=lambda entry: entry.header_offset):
            member = _member(file, entry, refuse)
            if entry.header_offset < free or member.start + member.packed_bytes > limit:
                raise refuse("Members of the archive overlap or lie outside the file.")
            free = member.start + member.packed_bytes
            members.append(member)
    return tuple(member for member in members if not member.name.endswith("/"))


def stream_member(path: Path, member: Member, refuse: Refuse) -> Iterator[bytes]:
    """Yield a member, CHUNK_BYTES at a time, and check its claimed size and checksum."""
    remaining, checksum = member.bytes, 0
    with path.open("rb") as file:
        file.seek(member.start)
        for chunk in even(_inflated(file, member, refuse) if member.deflated else _stored(file, member)):
            remaining -= len(chunk)
            if remaining < 0:
                raise refuse("A member of the archive unpacks to more bytes than it claims.")
            checksum = zlib.crc32(chunk, checksum)
            yield chunk
    if remaining or checksum != member.checksum:
        raise refuse("A member of the archive was damaged: its size or checksum differs.")


def even(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Split a stream into chunks of CHUNK_BYTES each; the last may be shorter."""
    buffer = bytearray()
    for piece in pieces:
        buffer += piece
        while len(buffer) >= CHUNK_BYTES:
            yield bytes(buffer[:CHUNK_BYTES])
            del buffer[:CHUNK_BYTES]
    if buffer:
        yield bytes(buffer)


def _member(file: BinaryIO, entry: zipfile.ZipInfo, refuse: Refuse) -> Member:
    if entry.flag_bits & _ENCRYPTED or entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise refuse("A member of the archive is encrypted, or compressed in another way than deflate.")
    local = record_at(file, entry.header_offset, LOCAL)
    if not local or local[0] != MAGIC:
        raise refuse("Members of the archive overlap or lie outside the file.")
    deflated = entry.compress_type == zipfile.ZIP_DEFLATED
    if not deflated and entry.compress_size != entry.file_size:
        raise refuse("A member of the archive claims another size than it has.")
    start = entry.header_offset + LOCAL.size + local[9] + local[10]
    mode = entry.external_attr >> 16
    return Member(entry.orig_filename, entry.file_size, start, entry.compress_size, entry.CRC, deflated, mode)


def _stored(file: BinaryIO, member: Member) -> Iterator[bytes]:
    remaining = member.packed_bytes
    while remaining and (data := file.read(min(CHUNK_BYTES, remaining))):
        remaining -= len(data)
        yield data


def _inflated(file: BinaryIO, member: Member, refuse: Refuse) -> Iterator[bytes]:
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    remaining = member.packed_bytes
    try:
        while not inflater.eof:
            data = inflater.unconsumed_tail or file.read(min(_INPUT_BYTES, remaining))
            if not inflater.unconsumed_tail:
                remaining -= len(data)
            inflated = inflater.decompress(data, CHUNK_BYTES)
            if not data and not inflated:
                raise refuse("A member of the archive is cut off.")
            yield inflated
    except zlib.error:
        raise refuse("A member of the archive is damaged: it can't be unpacked.") from None
    if remaining or inflater.unused_data:
        raise refuse("A member of the archive has bytes after its end.")
