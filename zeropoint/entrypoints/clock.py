"""The clock of one quantization: measure how long each phase takes, and report progress."""

import resource
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from time import monotonic, process_time

from zeropoint.schema.job import Phase, Progress
from zeropoint.schema.report import ResumedPhase
from zeropoint.validation.compiling import Taken
from zeropoint.validation.report import Effort


@dataclass
class Clock:
    """The current phase, reported to `emit` at every step, and the seconds that each phase took."""

    emit: Callable[[Progress], None]
    phase: Phase = "loading"
    started: float = field(default_factory=monotonic)
    processor_before: float = field(default_factory=process_time)
    timings: dict[str, float] = field(default_factory=dict)
    ended: bool = False
    """Whether the phase took its last step."""

    def report(self, phase: Phase, done: int, total: int) -> None:
        """Report a step. A phase ends with its last step; time before a phase's first step counts for that phase."""
        if phase != self.phase:
            if not self.ended:
                self._close()
            self.phase, self.ended = phase, False
        self.emit(Progress(phase=phase, done=done, total=total))
        if 0 < total == done:
            self._close()
            self.ended = True

    def _close(self) -> None:
        now = monotonic()
        self.timings[self.phase] = round(self.timings.get(self.phase, 0.0) + now - self.started, 3)
        self.started = now

    @property
    def taken(self) -> Taken:
        """Return what was taken since the beginning."""
        seconds = sum(self.timings.values()) + monotonic() - self.started
        return Taken(seconds, process_time() - self.processor_before)

    def effort(self, resumed: Sequence[ResumedPhase] = ()) -> Effort:
        """Return the seconds by phase, including the current one, and the peak memory."""
        self._close()
        return Effort(dict(self.timings), peak_memory_bytes(), tuple(resumed))


def peak_memory_bytes() -> int:
    """Return the most memory that this process held at once, since it started."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
