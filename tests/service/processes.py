"""What the system shows of processes, and patience."""

import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

PATIENCE_SECONDS = 300.0
"""Only what never happens takes as long."""
LONGEST_PAUSE_SECONDS = 0.15
"""Between two looks: a look every 0.02 seconds took a third of a processor where it asks a service."""

Seen = TypeVar("Seen")


def eventually(look: Callable[[], Seen | None], seconds: float = PATIENCE_SECONDS) -> Seen:
    """Look again and again, less and less often, until there is something to see, and return it."""
    deadline, pause = time.monotonic() + seconds, 0.01
    while not (seen := look()):
        assert time.monotonic() < deadline, "this did not happen in time"
        time.sleep(pause)
        pause = min(1.3 * pause, LONGEST_PAUSE_SECONDS)
    return seen


def descendants(pid: int) -> list[int]:
    """A process and all that it started, directly or not."""
    parents = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        with suppress(FileNotFoundError, ProcessLookupError):
            parents[int(status.parent.name)] = int(status.read_text().rpartition(")")[2].split()[1])
    found = [pid]
    for one in found:  # grows while it is walked
        found += [child for child, parent in parents.items() if parent == one]
    return found


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def command_line(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()


def working_folder(pid: int) -> str:
    """Where a process is; a folder that was moved shows its new place."""
    return os.readlink(f"/proc/{pid}/cwd")


def is_leader(pid: int) -> bool:
    """Whether a process leads its session, as a child program does."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[3]) == pid


def is_running(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def has_loaded(pid: int, library: str) -> bool:
    return library in Path(f"/proc/{pid}/maps").read_text()
