"""Reads a zip archive whose members are stored, not compressed: every byte that is promised must be there."""

import re
import struct
import zipfile
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

from app.errors import Invalid

MAX_MEMBERS = 20_000
MAX_DIRECTORY_BYTES = 8 * 2**20

NAME = re.compile(r"[A-Za-z0-9_.+-]{1,128}(/[A-Za-z0-9_.+-]{1,128}){0,15}")

_END = struct.Struct("<4s4H2LH")
_END64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR64 = struct.Struct("<4sLQL")
_LOCAL = struct.Struct("<4s5H3L2H")
_ENCRYPTED = 0x1


def refused(detail: str) -> Invalid:
    """Return the refusal of an archive."""
    return Invalid(
        "archive_invalid", detail, "Upload the file that torch.export.save wrote, unchanged and not packed again."
    )


class Archive:
    """A zip that was opened; `check_members` comes before the first read."""

    def __init__(self, path: Path) -> None:
        self.sizes: dict[str, int] = {}
        self._root = ""
        self._file = path.open("rb")
        try:
            self._directory_start = _check_end(self._file)
            self._zip = zipfile.ZipFile(self._file)
        except zipfile.BadZipFile:
            self._file.close()
            raise refused("The archive's directory can't be read.") from None
        except BaseException:
            self._file.close()
            raise

    @property
    def names(self) -> list[str]:
        """The members' names below their root folder, before any check."""
        return [member.filename.partition("/")[2] for member in self._zip.infolist()]

    def check_members(self) -> None:
        """Raise Invalid unless all members are stored, under one root folder, no name twice, no byte shared."""
        members = sorted(self._zip.infolist(), key=lambda member: member.header_offset)
        if not members:
            raise refused("The archive is empty.")
        self._root = members[0].filename.split("/")[0]
        free = 0
        for member in members:
            free = _check_member(self._file, member, free, self._directory_start)
            root, _, name = member.filename.partition("/")
            if root != self._root or not name:
                raise refused("Every member must be in one root folder.")
            if name in self.sizes:
                raise refused(f"{name} is there twice.")
            self.sizes[name] = member.file_size

    def read(self, name: str, max_bytes: int) -> bytes:
        """Return a member's bytes, by its name below the root folder."""
        if name not in self.sizes:
            raise refused(f"{name} is missing.")
        if self.sizes[name] > max_bytes:
            raise refused(f"{name} has {self.sizes[name]} bytes; at most {max_bytes} are read.")
        try:
            return self._zip.read(f"{self._root}/{name}")
        except zipfile.BadZipFile:
            raise refused(f"{name} was damaged: its checksum differs.") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._zip.close()
        self._file.close()


def _check_end(file: BinaryIO) -> int:
    """Check the end record before anything is allocated from it; return where the directory starts."""
    size = file.seek(0, 2)
    record = _at(file, size - _END.size, _END)
    if not record or record[0] != b"PK\5\6" or record[7]:
        raise refused("The archive has no end record in its last 22 bytes: it is cut off, or something follows it.")
    count, directory_bytes, start = record[4], record[5], record[6]
    end = size - _END.size
    locator = _at(file, end - _LOCATOR64.size, _LOCATOR64)
    if locator and locator[0] == b"PK\6\7":
        record64 = _at(file, locator[2], _END64)
        if not record64 or record64[0] != b"PK\6\6" or locator[2] + _END64.size + _LOCATOR64.size != end:
            raise refused("The archive's 64-bit end record can't be read.")
        count, directory_bytes, start = record64[7], record64[8], record64[9]
        end = locator[2]
    if count > MAX_MEMBERS or directory_bytes > MAX_DIRECTORY_BYTES:
        raise refused(f"The archive has {count} members; at most {MAX_MEMBERS} are read.")
    if start + directory_bytes != end:
        raise refused("The archive's directory is not where its end record says.")
    return int(start)


def _check_member(file: BinaryIO, member: zipfile.ZipInfo, free: int, limit: int) -> int:
    """Check one member; `free` is the first byte that no earlier member uses. Returns the next such byte."""
    name = member.orig_filename
    if not NAME.fullmatch(name) or ".." in name.split("/"):
        raise refused("A member has a name that is not plain letters, digits, dots, dashes and underscores.")
    if member.compress_type != zipfile.ZIP_STORED or member.compress_size != member.file_size:
        raise refused(f"{name} is compressed; torch.export stores its members as they are.")
    if member.flag_bits & _ENCRYPTED:
        raise refused(f"{name} is encrypted.")
    local = _at(file, member.header_offset, _LOCAL)
    if member.header_offset < free or not local or local[0] != b"PK\3\4":
        raise refused(f"{name} overlaps another member or lies outside the file.")
    end = member.header_offset + _LOCAL.size + local[9] + local[10] + member.file_size
    if end > limit:
        raise refused(f"{name} promises more bytes than the file has.")
    return int(end)


def _at(file: BinaryIO, offset: int, layout: struct.Struct) -> tuple[Any, ...] | None:
    if offset < 0:
        return None
    file.seek(offset)
    data = file.read(layout.size)
    return layout.unpack(data) if len(data) == layout.size else None
