"""Whether `model.pt2` is compiled to measure it, for how long, and what it gives then."""

import math
import resource
from collections.abc import Collection, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import NamedTuple, Protocol

import torch

from zeropoint.layers.result import Quantized
from zeropoint.loading.compiled import NO_COMPILER, CompiledClient
from zeropoint.model.source import Source
from zeropoint.schema.formats import PROGRAM_FILE
from zeropoint.schema.runtimes import ProcessorLevel
from zeropoint.simulation.processor import lower_level, this_level, torch_level
from zeropoint.validation.runs import RuntimeRuns

SHORTEST_JOB = 20.0
"""Seconds of processor time from which a job compiles unasked: the smallest program takes that, at both levels."""
LEAST_SECONDS = 60.0
"""What such a job may compile for at least: an attempt that is cut off is lost time, and most programs need less."""
MODELLED = 'The recipe says "runtimes": "modelled".'
SHORT_JOB = 'Compiling would take longer than the job; "runtimes": "compiled" in the recipe compiles all the same.'
NO_TIME = "Programs are not compiled here (0 seconds)."


NO_MEMORY = "There is not enough memory to compile the program beside the job."
BASE_BYTES, COPIES = 2**30, 5
"""What a compiling process takes: torch and a compiler, and the program: read, frozen, packed for kernels."""


class Taken(NamedTuple):
    """The seconds that a job has taken so far: by the clock, and of the processor, which other programs don't raise."""

    seconds: float
    processor: float


@dataclass(frozen=True)
class Wish:
    """What is to be found out: for which formats, how, for how long, and on which processor."""

    formats: Collection[str]
    """Those that the recipe asks for."""
    mode: str = "auto"
    """The recipe's `validation.runtimes`."""
    target_isa: str = "any"
    compile_seconds: float = 0.0
    latency: bool = False
    """Whether calls are timed too."""
    own: ProcessorLevel = field(default_factory=this_level)
    of_torch: ProcessorLevel = field(default_factory=torch_level)

    @classmethod
    def of(cls, quantized: Quantized, formats: Iterable[str], compile_seconds: float) -> "Wish":
        """Return what a result's recipe asks for, and for how long it may be compiled."""
        recipe = quantized.recipe
        asked = recipe.validation
        return cls(tuple(formats), asked.runtimes, recipe.target_isa, compile_seconds, asked.latency)

    @property
    def everywhere(self) -> bool:
        """Whether the model must be right at levels that saturate too."""
        return self.target_isa == "any"

    def compile_limit(self, taken: Taken) -> float:
        """Return for how many seconds the program may be compiled in a job that has taken so much."""
        if self.mode == "auto":
            affordable = max(taken.seconds, LEAST_SECONDS)
            return min(self.compile_seconds, affordable) if taken.processor >= SHORTEST_JOB else 0.0
        return self.compile_seconds if self.mode == "compiled" else 0.0


class Compiler(Protocol):
    """Compiles the saved program, in a process of its own."""

    @property
    def compiles(self) -> bool:
        """Whether there is a compiler."""

    def compiled(self, folder: Path, isa: str | None, seconds: float) -> AbstractContextManager[CompiledClient]:
        """Connect to a process that compiles the program in `folder`."""


@dataclass(frozen=True)
class Compiled:
    """What became of compiling the program: the run at each level that was measured, and why others were not."""

    levels: Mapping[ProcessorLevel, str] = field(default_factory=dict)
    reason: str | None = None
    seconds_left: float = 0.0
    """For which more may be compiled."""


def measure_compiled(
    source: Source, runs: RuntimeRuns, compiler: Compiler, wish: Wish, folder: Path, *, taken: Taken
) -> Compiled:
    """Compile the program in `folder`, and add what it gives on the batches of `runs`, at each level."""
    seconds = wish.compile_limit(taken)
    if "pt2" not in wish.formats or not runs.batches:
        return Compiled()
    if not seconds or not compiler.compiles:
        return Compiled(reason=_why_not(wish, compiler))
    if BASE_BYTES + COPIES * (folder / PROGRAM_FILE).stat().st_size > free_bytes():
        return Compiled(reason=NO_MEMORY)
    deadline, done = monotonic() + seconds, dict[ProcessorLevel, str]()
    lower = lower_level(wish.of_torch) if wish.everywhere else None
    for level in (wish.of_torch, *([lower] if lower else [])):
        left = deadline - monotonic()
        isa = "AVX2" if level is lower else None
        with compiler.compiled(folder, isa, max(left, 1.0)) as client:
            if not _measure(source, runs, client, f"compiled {level}"):
                return Compiled(done, client.reason, deadline - monotonic())
        done[level] = f"compiled {level}"
    return Compiled(done, seconds_left=deadline - monotonic())


def free_bytes() -> float:
    """Return the memory that other processes of a job may take: what its limit leaves, and what the machine has."""
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    held = 2 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # the second process has a copy of the model
    left = math.inf if limit == resource.RLIM_INFINITY else limit - held
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return left
    return min([left, *(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))])


def _why_not(wish: Wish, compiler: Compiler) -> str:
    if wish.mode == "modelled":
        return MODELLED
    if not compiler.compiles:
        return NO_COMPILER
    return SHORT_JOB if wish.compile_seconds else NO_TIME


def _measure(source: Source, runs: RuntimeRuns, client: CompiledClient, name: str) -> bool:
    """Add the outputs of all batches; return False if one has none."""
    source.reset()
    for batch in runs.batches:
        outputs = client.run(batch)
        if outputs is None:
            return False
        with torch.no_grad():
            runs.add_run(name, source.run(batch), outputs)
    source.reset()
    return True
