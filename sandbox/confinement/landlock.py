"""Landlock: which files a process may use, and none of the network, of other processes' signals or sockets.

How much of it there is depends on the kernel (its ABI): files from 1, truncation from 3, TCP from 4, devices from 5,
signals and abstract sockets from 6. See landlock(7).
"""

import ctypes
import os
import stat
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from sandbox.confinement.kernel import LayerOff, call, number

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
REMOVE_DIR, REMOVE_FILE, MAKE_DIR, MAKE_REG = 1 << 4, 1 << 5, 1 << 7, 1 << 8
REFER, TRUNCATE, IOCTL_DEV = 1 << 13, 1 << 14, 1 << 15

READ = READ_FILE | READ_DIR
RUN = READ_FILE | EXECUTE
USE_DEVICE = READ_FILE | WRITE_FILE | IOCTL_DEV
WORK = READ | WRITE_FILE | TRUNCATE | REMOVE_DIR | REMOVE_FILE | MAKE_DIR | MAKE_REG | REFER
"""Plain files and folders. Links, devices, pipes and sockets can't be made, programs can't be started."""

SIGNALS_ABI = 6
_OF_FILES = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEV
_FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15}
_ALL_FILE_RIGHTS = 16
_TCP, _SIGNALS_AND_SOCKETS = 0b11, 0b11
_ABI_QUERY = 1
_PATH_BENEATH = 1


class _Ruleset(ctypes.Structure):
    _fields_ = (("files", ctypes.c_uint64), ("network", ctypes.c_uint64), ("scopes", ctypes.c_uint64))


class _PathBeneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed", ctypes.c_uint64), ("parent", ctypes.c_int32))


Rule = tuple[Path, int]
"""A file or folder, and what may be done with it and everything below."""


def abi() -> int:
    """Return the ABI of this kernel's Landlock; 0 means that there is none."""
    create = number("landlock_create_ruleset")
    with suppress(OSError):
        return 0 if create is None else call(create, None, 0, _ABI_QUERY)
    return 0


def restrict(rules: Iterable[Rule]) -> int:
    """Let this process, and whatever it starts, use these files only; return the ABI. Raises LayerOff."""
    level = abi()
    if level == 0:
        raise LayerOff("this kernel has no Landlock, or it is switched off")
    handled = (1 << _FILE_RIGHTS.get(level, _ALL_FILE_RIGHTS)) - 1
    try:
        ruleset = _create(level, handled)
        for path, rights in rules:
            _allow(ruleset, path, rights & handled)
        call(_number("landlock_restrict_self"), ruleset, 0)
        os.close(ruleset)
    except OSError as error:
        raise LayerOff(f"Landlock: {error.strerror}") from error
    return level


def _create(level: int, handled: int) -> int:
    attributes = _Ruleset(handled, _TCP if level >= 4 else 0, _SIGNALS_AND_SOCKETS if level >= SIGNALS_ABI else 0)
    # An older kernel knows a shorter structure.
    size = 24 if level >= SIGNALS_ABI else 16 if level >= 4 else 8
    return call(_number("landlock_create_ruleset"), ctypes.byref(attributes), size, 0)


def _allow(ruleset: int, path: Path, rights: int) -> None:
    with suppress(FileNotFoundError, NotADirectoryError, PermissionError):  # what can't be found can't be used either
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
        try:
            if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
                rights &= _OF_FILES
            rule = _PathBeneath(rights, descriptor)
            call(_number("landlock_add_rule"), ruleset, _PATH_BENEATH, ctypes.byref(rule), 0)
        finally:
            os.close(descriptor)


def _number(name: str) -> int:
    known = number(name)
    assert known is not None
    return known
