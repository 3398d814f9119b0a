"""What speaks for a limit when a child was killed and nobody says why: a kill alone is no verdict on the job.

The system's out-of-memory killer counts its victims, for the worker's own control group where there is one. Programs
that kill before it does (earlyoom, systemd-oomd) do so while little memory is available. The limit on processor time
kills who ignores its first signal.
"""

import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Literal

from sandbox.machine import CGROUPS, MEMINFO, memory_facts, memory_groups

Evidence = Literal["memory", "processor"]

NEAR_SHARE = 0.9
"""Of a job's memory: it is looked at now and then, and may have grown since."""
SHORT_SHARE = 0.05
"""Of the machine's memory: when less is available, programs are killed for it."""
RECENT_SECONDS = 10.0
"""A process that holds much takes some seconds to die."""

TICKS = os.sysconf("SC_CLK_TCK")


class KillWatch:
    """Looks at the machine and at a child's processor time now and then, and once more after its end."""

    def __init__(
        self,
        leader: int,
        cpu_seconds: float,
        clock: Callable[[], float] = time.monotonic,
        kills: Callable[[], int] | None = None,
        short: Callable[[], bool] | None = None,
    ) -> None:
        self._leader = leader
        self._cpu_seconds = cpu_seconds
        self._clock = clock
        self._count = kills or oom_kills
        self._short = short or is_short_of_memory
        self._killed = self._count()
        self._spoke_for_memory = float("-inf")
        self._overspent = False

    def look(self) -> None:
        """Note what speaks for a limit just now."""
        killed = self._count()
        if killed > self._killed or self._short():
            self._killed, self._spoke_for_memory = killed, self._clock()
        self._overspent = self._overspent or _cpu_seconds(self._leader) >= self._cpu_seconds

    def evidence(self, peak_memory_bytes: int, memory_bytes: int) -> Evidence | None:
        """Return which limit killed the child; None when nothing speaks for one."""
        self.look()
        recent = self._clock() - self._spoke_for_memory < RECENT_SECONDS
        if recent or peak_memory_bytes > NEAR_SHARE * memory_bytes:
            return "memory"
        return "processor" if self._overspent else None


def oom_kills(groups: Path = CGROUPS) -> int:
    """Return how many processes the system has killed for memory: of this control group, else of the machine."""
    counts = (
        root / path / ("memory.events" if version == 2 else "memory.oom_control")
        for version, root, path in memory_groups(groups)
    )
    for path in (*counts, Path("/proc/vmstat")):
        with suppress(OSError):
            for line in path.read_text().splitlines():
                name, _, number = line.partition(" ")
                if name == "oom_kill":
                    return int(number)
    return 0


def is_short_of_memory(meminfo: Path = MEMINFO) -> bool:
    """Return whether little of the machine's memory is available."""
    facts: Mapping[str, int] = {}
    with suppress(OSError):
        facts = memory_facts(meminfo)
    return facts.get("MemAvailable", 0) < SHORT_SHARE * facts.get("MemTotal", 0)


def _cpu_seconds(pid: int) -> float:
    with suppress(OSError, IndexError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS
    return 0.0
