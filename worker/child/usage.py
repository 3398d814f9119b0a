"""Measures the memory, disk and processes of a running child from outside, where no limit of the kernel serves.

RLIMIT_AS counts addresses of one process, and can't be used with CUDA; RLIMIT_FSIZE counts one file.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Literal

from app.room import room_for

Excess = Literal["memory", "disk", "processes", "room"]
"""Limits of the job, and the room that every writer leaves free on the disk, whoever took it."""

MOST_PROCESSES = 64
"""In a job's group: a job has three, and one that compiles has a handful more."""

_COUNTED = ("RssAnon:", "RssShmem:")
"""Pages that only this program needs; those of a file can be dropped and read again."""


class UsageWatch:
    """Measures the process group of `leader` and its folder; `excess` names the limit that was passed."""

    def __init__(self, leader: int, folder: Path, memory_bytes: int, disk_bytes: int) -> None:
        self.excess: Excess | None = None
        self.peak_memory_bytes = 0
        self._leader = leader
        self._folder = folder
        self._memory_bytes = memory_bytes
        self._disk_bytes = disk_bytes

    def look(self) -> None:
        processes = list(_group(self._leader))
        memory = sum(map(_memory, processes))
        self.peak_memory_bytes = max(self.peak_memory_bytes, memory)
        if len(processes) > MOST_PROCESSES:
            self.excess = "processes"
        elif memory > self._memory_bytes:
            self.excess = "memory"
        elif bytes_below(self._folder) > self._disk_bytes:
            self.excess = "disk"
        elif not room_for(os.statvfs(self._folder), 0):
            self.excess = "room"


def memory_of_group(leader: int) -> int:
    """Return the bytes of memory that the processes of a group hold together."""
    return sum(_memory(pid) for pid in _group(leader))


def memory_by_part(main: int) -> dict[str, int]:
    """Return the bytes of memory that a worker holds: its main process, the pool's, and all that those started.

    What leads a session of its own is no process of the pool: it tells MLflow of jobs.
    """
    parents = dict(_parents())
    held = {"main": _memory(main), "slots": 0, "jobs": 0, "mlflow": 0}
    started = {pid for pid, parent in parents.items() if parent == main}
    slots = {pid for pid in started if not _leads(pid)}
    for pid in parents:
        if pid in started - slots:
            held["mlflow"] += _memory(pid)
        if pid in slots:
            held["slots"] += _memory(pid)
        elif _descends(pid, slots, parents):
            held["jobs"] += _memory(pid)
    return held


def bytes_below(folder: Path) -> int:
    """Return the bytes that the files in a folder take on disk; holes don't count, links are not followed."""
    total = 0
    for where, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):  # removed meanwhile
                total += os.lstat(os.path.join(where, name)).st_blocks * 512
    return total


def _group(leader: int) -> Iterator[int]:
    for name in os.listdir("/proc"):
        if name.isdigit():
            with suppress(OSError):  # ended meanwhile
                if os.getpgid(int(name)) == leader:
                    yield int(name)


def _parents() -> Iterator[tuple[int, int]]:
    for name in os.listdir("/proc"):
        if name.isdigit():
            with suppress(OSError):  # ended meanwhile
                yield int(name), int(Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()[1])


def _leads(pid: int) -> bool:
    with suppress(OSError):  # ended meanwhile
        return os.getsid(pid) == pid
    return False


def _descends(pid: int, ancestors: set[int], parents: Mapping[int, int]) -> bool:
    seen: set[int] = set()
    while pid in parents and pid not in seen:  # a number may be used again while this is read
        seen.add(pid)
        pid = parents[pid]
        if pid in ancestors:
            return True
    return False


def _memory(pid: int) -> int:
    with suppress(OSError):
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(_COUNTED))
    return 0
