"""What the settings promise of the machine's memory: gates of the API, jobs of the worker. Never more than there is.

A limit that nobody set is lowered until all of it fits; one that was set is kept, or the process does not start.
"""

import os
from dataclasses import dataclass

from app.settings import Settings
from sandbox.machine import memory_bytes

OWN_BYTES = 256 * 2**20
"""Of an API process, and of a worker beside its jobs."""
GATES_SHARE = 4
"""Gates take at most one part in so many of the memory: jobs may run on the same machine."""
LEAST_GATE_BYTES = 2**27
LEAST_JOB_BYTES = 2**30


class TooMuchPromised(ValueError):
    """The settings promise more memory than there is. The text has the numbers and what to change."""


@dataclass(frozen=True)
class MemoryPlan:
    """How much is admitted at once, and how many bytes each may hold; `machine` is the memory that there is."""

    machine: int
    gates: int
    gate_bytes: int
    slots: int
    job_bytes: int

    def check(self, *, api: bool = False, worker: bool = False) -> str:
        """Return a sentence about what these processes admit. Raises TooMuchPromised."""
        parts = []
        if api:
            parts.append((self.gates, self.gate_bytes, "gates", "ZEROPOINT_GATES or ZEROPOINT_GATE_MEMORY_BYTES"))
        if worker:
            parts.append((self.slots, self.job_bytes, "jobs", "ZEROPOINT_WORKER_SLOTS or ZEROPOINT_JOB_MEMORY_BYTES"))
        promised = sum(OWN_BYTES + number * each for number, each, _, _ in parts)
        words = " and ".join(f"{_count(number, what)} of {_spell(each)}" for number, each, what, _ in parts)
        said = f"{words}, {_spell(promised)} in all, of the {_spell(self.machine)} of memory that there are"
        if promised > self.machine:
            change = ", or ".join(names for _, _, _, names in parts)
            raise TooMuchPromised(f"The settings promise more memory than there is: {said}. Lower {change}.")
        return f"admits {said}"


def plan_memory(settings: Settings, machine: int | None = None, cores: int | None = None) -> MemoryPlan:
    """Return what the settings give, and where they are silent what the machine's memory and cores allow."""
    machine, cores = machine or memory_bytes(), cores or os.cpu_count() or 1
    given, share = settings.model_fields_set, machine // GATES_SHARE
    gates = settings.gates or max(1, min(cores, share // settings.gate_memory_bytes))
    gate_bytes = settings.gate_memory_bytes
    if "gate_memory_bytes" not in given:
        gate_bytes = min(gate_bytes, max(LEAST_GATE_BYTES, share // gates))
    job_bytes, left = settings.job_memory_bytes, machine - 2 * OWN_BYTES - gates * gate_bytes
    if "job_memory_bytes" not in given:
        job_bytes = min(job_bytes, max(LEAST_JOB_BYTES, left // settings.worker_slots))
    return MemoryPlan(machine, gates, gate_bytes, settings.worker_slots, job_bytes)


def _spell(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"


def _count(number: int, what: str) -> str:
    return f"{number} {what if number > 1 else what.removesuffix('s')}"
