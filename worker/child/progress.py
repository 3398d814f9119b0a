"""Progress as the child reports it: checked, and passed on at a limited rate.

A line that is not a Progress, that claims more than all of it or that goes back to an earlier phase is ignored: the
child has read an upload, and each line that is passed on costs a write to the database.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import get_args

from pydantic import ValidationError

from zeropoint.schema.job import Phase, Progress

CHILD_PHASES: tuple[Phase, ...] = tuple(phase for phase in get_args(Phase) if phase != "publishing")
COUNT_CAP = 2**31 - 1
INTERVAL_SECONDS = 0.5


@dataclass(frozen=True)
class Reading:
    """A progress worth recording; `eta_seconds` is for its phase alone, from the phase's own rate."""

    progress: Progress
    eta_seconds: float | None


@dataclass(frozen=True)
class PhaseTime:
    """A phase as the worker saw it: when it began (monotonic), how many seconds it took, and whether it ended."""

    phase: Phase
    began: float
    seconds: float
    ended: bool = True


class ProgressWatch:
    """Reads every line and returns the few that are worth a write: each new phase at once, others at intervals."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._latest: Progress | None = None
        self._phase_began = 0.0
        self._times: list[PhaseTime] = []
        self._phase_first_done = 0
        self._due: list[Reading] = []
        self._unrecorded: Reading | None = None
        self._recorded_at = float("-inf")

    @property
    def phase(self) -> Phase | None:
        """Return the phase that the child last reported."""
        return self._latest.phase if self._latest else None

    def feed(self, line: bytes) -> None:
        """Read one line of the child's standard output."""
        progress = parse(line)
        if progress is None or _goes_back(self._latest, progress):
            return
        if self.phase != progress.phase:
            self._times = [*self.times(ended=True)]
            self._phase_began, self._phase_first_done = self._clock(), progress.done
            self._due.append(Reading(progress, None))
            self._unrecorded = None
        else:
            self._unrecorded = Reading(progress, self._eta(progress))
        self._latest = progress

    def times(self, *, ended: bool) -> tuple[PhaseTime, ...]:
        """Return the time of each phase so far; `ended`: whether the last one has ended too."""
        if self.phase is None:
            return ()
        seconds = self._clock() - self._phase_began
        return (*self._times, PhaseTime(self.phase, self._phase_began, seconds, ended))

    def due(self) -> list[Reading]:
        """Return the readings to record now, oldest first."""
        present = self._clock()
        due, self._due = self._due, []
        if self._unrecorded and (due or present - self._recorded_at >= INTERVAL_SECONDS):
            due.append(self._unrecorded)
            self._unrecorded = None
        if due:
            self._recorded_at = present
        return due

    def _eta(self, progress: Progress) -> float | None:
        gained = progress.done - self._phase_first_done
        if not progress.total or gained <= 0:
            return None
        return (progress.total - progress.done) * (self._clock() - self._phase_began) / gained


def parse(line: bytes) -> Progress | None:
    """Return a line as Progress; None for anything else."""
    try:
        progress = Progress.model_validate_json(line, strict=True)
    except ValidationError:
        return None
    known = progress.phase in CHILD_PHASES
    sound = progress.done <= (progress.total or COUNT_CAP) and progress.total <= COUNT_CAP
    return progress if known and sound else None


def _goes_back(before: Progress | None, after: Progress) -> bool:
    return before is not None and CHILD_PHASES.index(after.phase) < CHILD_PHASES.index(before.phase)
