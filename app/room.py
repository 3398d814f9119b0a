"""Room on a disk: what every writer leaves free, and what means that there is none."""

import errno
import os
from dataclasses import dataclass

RESERVE_BYTES = 16 * 2**20
"""On each file system that is written to: rows and logs may be there too, and must still be written."""

NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""The errno of an OSError that means: the disk is full, or a quota or a limit on files is reached."""


def require_room(descriptor: int, size: int) -> None:
    """Raise OSError (NO_ROOM) unless this many bytes fit on the file system of an open file or folder."""
    if not room_for(os.fstatvfs(descriptor), size):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def room_for(disk: os.statvfs_result, size: int) -> bool:
    """Return whether this many bytes fit on a file system beside what is left free."""
    # A file system that does not know its own size gives it as 0.
    return not disk.f_blocks or size <= disk.f_bavail * disk.f_frsize - RESERVE_BYTES


@dataclass(frozen=True)
class Room:
    """The bytes of a file system, and those that are free for this process's user."""

    size: int
    free: int


def room_on(path: str | os.PathLike[str]) -> Room | None:
    """Return the room on the file system of a folder; None where it can't be asked or does not know."""
    try:
        found = os.statvfs(path)
    except OSError:
        return None
    return Room(found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize) if found.f_blocks else None
