"""Read a zip archive whose members are stored, not compressed; every claimed byte must exist.

torch.save and torch.export write such archives, and some of the second kind hold others of the first kind.
"""

import re
import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, BinaryIO, Self, cast

from app.errors import Invalid
from app.intake.archives.part import Part
from app.intake.archives.zip_records import LOCAL, directory_start, record_at

MAX_MEMBERS = 20_000
MAX_DIRECTORY_BYTES = 8 * 2**20

NAME = re.compile(r"[A-Za-z0-9_.+-]{1,128}(/[A-Za-z0-9_.+-]{1,128}){0,15}")

_ROOT = re.compile(r"[^/\\\x00-\x1f\x7f]{1,255}")
"""The root folder, which torch names after the user's file; the name is used for nothing."""

_DESCRIPTOR32 = struct.Struct("<4s3L")
_DESCRIPTOR64 = struct.Struct("<4sL2Q")
_ENCRYPTED = 0x1
_DESCRIPTOR = 0x8
_IN_EXTRA = 0xFFFFFFFF
CHUNK_BYTES = 2**20


def refused(detail: str) -> Invalid:
    """Return the refusal of an archive."""
    return Invalid(
        "archive_invalid", detail, "Upload the file that torch.export.save wrote, unchanged and not packed again."
    )


@dataclass(frozen=True)
class Place:
    """The position of a member's bytes in the archive, and their checksum."""

    start: int
    size: int
    crc: int


class Archive:
    """An opened zip: a whole file, or `size` bytes of it from `start`. Call `check_members` before the first read."""

    def __init__(self, path: Path, start: int = 0, size: int | None = None) -> None:
        self.sizes: dict[str, int] = {}
        self.start = start
        self._places: dict[str, Place] = {}
        self._root = ""
        self._file: BinaryIO | Part = path.open("rb")
        if size is not None:
            self._file = Part(self._file, start, size)
        try:
            self._directory_start = directory_start(self._file, MAX_MEMBERS, MAX_DIRECTORY_BYTES, refused)
            self._zip = zipfile.ZipFile(cast(IO[bytes], self._file))
        except (zipfile.BadZipFile, ValueError, struct.error, NotImplementedError, OverflowError):
            self._file.close()
            raise refused("The archive's directory can't be read.") from None
        except BaseException:
            self._file.close()
            raise

    @property
    def names(self) -> list[str]:
        """Return the members' whole names, before any check."""
        return [member.filename for member in self._zip.infolist()]

    def check_members(self, *, rooted: bool = True) -> None:
        """Raise Invalid unless all members are stored, with distinct names, no overlap and no gap.

        `rooted`: all lie in one folder, below which they are named from now on.
        """
        members = sorted(self._zip.infolist(), key=lambda member: member.header_offset)
        if not members:
            raise refused("The archive is empty.")
        self._root = members[0].filename.split("/")[0] if rooted else ""
        free, seen = 0, set[str]()
        for member in members:
            root, _, name = member.filename.partition("/") if rooted else ("", "", member.filename)
            if root != self._root or not name:
                raise refused("Every member must be in one root folder.")
            if not NAME.fullmatch(name) or ".." in name.split("/") or member.orig_filename != member.filename:
                raise _odd_name()
            place, free = _check_member(self._file, member, name, free, self._directory_start)
            if name.lower() in seen:
                raise refused(f"{name} is in the archive twice.")
            seen.add(name.lower())
            self.sizes[name], self._places[name] = member.file_size, place
        if free != self._directory_start:
            raise refused("There are bytes between the last member and the directory.")

    def read(self, name: str, max_bytes: int) -> bytes:
        """Return a member's bytes, by its checked name. Raises Invalid."""
        if name not in self.sizes:
            raise refused(f"{name} is missing.")
        if self.sizes[name] > max_bytes:
            raise refused(f"{name} has {self.sizes[name]} bytes; at most {max_bytes} are read.")
        return b"".join(self.chunks(name))

    def place(self, name: str) -> Place:
        """Return the position of a member in this archive, by its checked name."""
        return self._places[name]

    def chunks(self, name: str) -> Iterator[bytes]:
        """Yield a member's bytes in chunks. Raises Invalid after the last chunk if the checksum is wrong."""
        place, crc = self._places[name], 0
        for start in range(0, place.size, CHUNK_BYTES):
            self._file.seek(place.start + start)
            chunk = self._file.read(min(CHUNK_BYTES, place.size - start))
            crc = zlib.crc32(chunk, crc)
            yield chunk
        if crc != place.crc:
            raise refused(f"{name} was damaged: its checksum differs.")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._zip.close()
        self._file.close()


def _odd_name() -> Invalid:
    return refused("A member has a name that is not plain letters, digits, dots, dashes and underscores.")


def _check_member(
    file: BinaryIO | Part, member: zipfile.ZipInfo, name: str, free: int, limit: int
) -> tuple[Place, int]:
    """Check one member, which must begin at `free`, the first unused byte; return its place and the next one.

    `name` is checked, and what messages call it.
    """
    if not _ROOT.fullmatch(member.filename.partition("/")[0]):
        raise _odd_name()
    if member.compress_type != zipfile.ZIP_STORED or member.compress_size != member.file_size:
        raise refused(f"{name} is compressed; torch.export stores its members as they are.")
    if member.flag_bits & _ENCRYPTED:
        raise refused(f"{name} is encrypted.")
    local = record_at(file, member.header_offset, LOCAL)
    if member.header_offset != free or not local or local[0] != b"PK\3\4":
        raise refused(f"{name} overlaps another member, lies outside the file, or leaves bytes between them.")
    start = member.header_offset + LOCAL.size + local[9] + local[10]
    end = start + member.file_size
    if end > limit:
        raise refused(f"{name} claims more bytes than the file has.")
    if not _agrees(file, member, local):
        raise refused(f"{name}: its own header differs from the directory.")
    return Place(start, member.file_size, member.CRC), end + _descriptor_bytes(file, member, name, end)


def _agrees(file: BinaryIO | Part, member: zipfile.ZipInfo, local: tuple[Any, ...]) -> bool:
    """Return whether a local header describes the member; torch writes sizes to a descriptor after the bytes."""
    file.seek(member.header_offset + LOCAL.size)
    numbers = ((member.CRC, member.compress_size, member.file_size), (member.CRC, _IN_EXTRA, _IN_EXTRA))
    deferred = member.flag_bits & _DESCRIPTOR and tuple(local[6:9]) in ((0, 0, 0), (0, _IN_EXTRA, _IN_EXTRA))
    same = local[2] == member.flag_bits and local[3] == zipfile.ZIP_STORED
    return same and file.read(local[9]) == member.orig_filename.encode() and (deferred or local[6:9] in numbers)


def _descriptor_bytes(file: BinaryIO | Part, member: zipfile.ZipInfo, name: str, end: int) -> int:
    """Return the length of the descriptor after a member's bytes, 0 when its flags announce none. Raises Invalid."""
    if not member.flag_bits & _DESCRIPTOR:
        return 0
    expected = (b"PK\7\x08", member.CRC, member.compress_size, member.file_size)
    for layout in (_DESCRIPTOR32, _DESCRIPTOR64):
        if record_at(file, end, layout) == expected:
            return layout.size
    raise refused(f"{name}: the bytes after it don't match the directory.")
