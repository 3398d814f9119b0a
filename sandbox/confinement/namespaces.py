"""A network namespace of its own: no interface but a loopback that is down. A default container forbids it."""

import os
from pathlib import Path

from sandbox.confinement.kernel import LayerOff, call, number

CLONE_NEWUSER = 0x10000000
CLONE_NEWNET = 0x40000000


def leave_the_network() -> None:
    """Move this process, which must have one thread, away from the host's network. Raises LayerOff."""
    unshare = number("unshare")
    if unshare is None:
        raise LayerOff("unshare has no known number here")
    user, group = os.geteuid(), os.getegid()
    try:
        # A user namespace is what lets an ordinary user make the other one.
        call(unshare, CLONE_NEWUSER | CLONE_NEWNET)
        _write("setgroups", "deny")
        _write("uid_map", f"{user} {user} 1")
        _write("gid_map", f"{group} {group} 1")
    except OSError as error:
        raise LayerOff(f"namespaces: {error.strerror}") from error


def _write(name: str, text: str) -> None:
    Path(f"/proc/self/{name}").write_text(text)
