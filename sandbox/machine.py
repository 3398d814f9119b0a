"""How much memory this process may have at all: the machine's, or what its control groups leave it."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path


def memory_bytes(groups: Path = Path("/sys/fs/cgroup"), process: Path = Path("/proc")) -> int:
    """Return the memory of the machine, or of the narrowest control group around this process, in bytes."""
    return min([_of_machine(process / "meminfo"), *_of_groups(groups, process / "self" / "cgroup")])


def _of_machine(meminfo: Path) -> int:
    for line in meminfo.read_text().splitlines():
        name, _, value = line.partition(":")
        if name == "MemTotal":
            return int(value.split()[0]) * 1024
    raise OSError(f"{meminfo} has no MemTotal")


def _of_groups(groups: Path, membership: Path) -> Iterator[int]:
    """Yield the limits of this process's group and of all around it, of version 2 and of version 1.

    In a container the path may be one of the host, which is not there: the group around everything is looked at too.
    """
    with suppress(OSError):
        for line in membership.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers and "memory" not in controllers.split(","):
                continue
            root, name = (groups / "memory", "memory.limit_in_bytes") if controllers else (groups, "memory.max")
            here = Path(path.lstrip("/"))
            for group in (here, *here.parents):
                with suppress(OSError, ValueError):  # not there, or "max"
                    yield int((root / group / name).read_text())
