"""The machine's memory, and the control groups that count this process's: how much it may have at all."""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

CGROUPS = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")
MEMINFO = Path("/proc/meminfo")


class Group(NamedTuple):
    """A control group that counts memory: where groups of its version are, and its own path below that."""

    version: int
    root: Path
    path: Path


def memory_bytes(groups: Path = CGROUPS, process: Path = Path("/proc")) -> int:
    """Return the memory of the machine, or of the narrowest control group around this process, in bytes."""
    machine = memory_facts(process / "meminfo")["MemTotal"]
    return min([machine, *_limits(memory_groups(groups, process / "self" / "cgroup"))])


def memory_facts(meminfo: Path = MEMINFO) -> Mapping[str, int]:
    """Return what the system says of its memory, in bytes. Raises OSError."""
    lines = (line.partition(":") for line in meminfo.read_text().splitlines())
    return {name: int(value.split()[0]) * 1024 for name, _, value in lines if value.endswith(" kB")}


def memory_groups(groups: Path = CGROUPS, membership: Path = MEMBERSHIP) -> Iterator[Group]:
    """Yield the groups of this process that count memory, of version 2 and of version 1."""
    with suppress(OSError):
        for line in membership.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if not controllers:
                yield Group(2, groups, Path(path.lstrip("/")))
            elif "memory" in controllers.split(","):
                yield Group(1, groups / "memory", Path(path.lstrip("/")))


def _limits(own: Iterator[Group]) -> Iterator[int]:
    """Yield the limits of groups and of all around them.

    In a container the path may be one of the host, which is not there: the group around everything is looked at too.
    """
    for version, root, path in own:
        name = "memory.max" if version == 2 else "memory.limit_in_bytes"
        for group in (path, *path.parents):
            with suppress(OSError, ValueError):  # not there, or "max"
                yield int((root / group / name).read_text())
