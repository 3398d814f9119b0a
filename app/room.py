"""Room on a disk: what every writer leaves free, and what means that there is none."""

import errno
import os

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
