"""The fixed records of a zip file, and the end record, which gives the position of the directory."""

import struct
from typing import Any, BinaryIO

from app.intake.archives.part import Part
from app.intake.parsing.strict_json import Refuse

LOCAL = struct.Struct("<4s5H3L2H")
END64 = struct.Struct("<4sQ2H2L4Q")
LOCATOR64 = struct.Struct("<4sLQL")
END = struct.Struct("<4s4H2LH")


def record_at(file: BinaryIO | Part, offset: int, layout: struct.Struct) -> tuple[Any, ...] | None:
    """Return the record at an offset that an upload claims; None when it is not inside the file."""
    if not 0 <= offset <= file.seek(0, 2) - layout.size:
        return None
    file.seek(offset)
    return layout.unpack(file.read(layout.size))


def directory_start(file: BinaryIO | Part, max_members: int, max_directory_bytes: int, refuse: Refuse) -> int:
    """Check the end record before allocating anything by it; return the position of the directory.

    `refuse` creates the error to raise.
    """
    end = file.seek(0, 2) - END.size
    record = record_at(file, end, END)
    if not record or record[0] != b"PK\5\6" or record[7]:
        raise refuse("The archive has no end record in its last 22 bytes: it is cut off, or something follows it.")
    count, directory_bytes, start = record[4:7]
    locator = record_at(file, end - LOCATOR64.size, LOCATOR64)
    if locator and locator[0] == b"PK\6\7":
        record64 = record_at(file, locator[2], END64)
        if not record64 or record64[0] != b"PK\6\6" or locator[2] + END64.size + LOCATOR64.size != end:
            raise refuse("The archive's 64-bit end record can't be read.")
        count, directory_bytes, start = record64[7:10]
        end = locator[2]
    if count > max_members or directory_bytes > max_directory_bytes:
        raise refuse(f"The archive has {count} members; at most {max_members} are read.")
    if start + directory_bytes != end:
        raise refuse("The archive's directory is not where its end record says.")
    return int(start)
