"""No capability, and no way to get one: a worker that runs as root starts jobs that can do little more than a user."""

import ctypes
import os

from sandbox.confinement.kernel import PR_GET_NO_NEW_PRIVS, PR_SET_NO_NEW_PRIVS, LayerOff, call, number

_VERSION_3 = 0x20080522


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


_Sets = ctypes.c_uint32 * 6
"""effective, permitted, inheritable; then the same for the upper 32 capabilities."""


def drop() -> None:
    """Give up every capability; with no_new_privs no program brings one back. Raises LayerOff."""
    try:
        _prctl(PR_SET_NO_NEW_PRIVS, 1)
        _capabilities("capset", _Sets())
    except OSError as error:
        raise LayerOff(f"privileges: {error.strerror}") from error


def held() -> bool:
    """Return whether this process has a capability, or may get one by starting a program."""
    sets = _Sets()
    _capabilities("capget", sets)
    return any(sets) or not _prctl(PR_GET_NO_NEW_PRIVS, 0)


def _capabilities(name: str, sets: ctypes.Array[ctypes.c_uint32]) -> None:
    known = number(name)
    if known is None:
        raise LayerOff(f"{name} has no known number on {os.uname().machine}")
    call(known, ctypes.byref(_Header(_VERSION_3, 0)), sets)


def _prctl(option: int, value: int) -> int:
    known = number("prctl")
    if known is None:
        raise LayerOff(f"prctl has no known number on {os.uname().machine}")
    return call(known, option, value, 0, 0, 0)
