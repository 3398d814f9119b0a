"""The clock of one quantization: which phase it is in, how long each took, and who is told."""

import resource
from collections.abc import Callable
from dataclasses import dataclass, field
from time import monotonic

from quantization.folder import Phase, Progress


@dataclass
class Clock:
    """Where the work stands, told to `emit` at every step, and how long each phase took."""

    emit: Callable[[Progress], None]
    phase: Phase = "loading"
    started: float = field(default_factory=monotonic)
    timings: dict[str, float] = field(default_factory=dict)

    def report(self, phase: Phase, done: int, total: int) -> None:
        """Take a step; a new phase ends the one before."""
        if phase != self.phase:
            self._close()
            self.phase = phase
        self.emit(Progress(phase=phase, done=done, total=total))

    def _close(self) -> None:
        now = monotonic()
        self.timings[self.phase] = round(now - self.started, 3)
        self.started = now

    def finished(self) -> dict[str, float]:
        """Seconds by phase, the current one included."""
        self._close()
        return dict(self.timings)


def peak_memory_bytes() -> int:
    """The most memory that this process held at once, since it started."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
