"""Time that work took, by two clocks: on a busy machine the wall clock says little and the processor's much."""

import time
from typing import NamedTuple


class Spent(NamedTuple):
    """Seconds of the wall clock, and of the processor in all threads of the process."""

    wall: float
    processor: float


class Stopwatch:
    """Runs from where it is made."""

    def __init__(self) -> None:
        self.wall, self.processor = time.perf_counter(), time.process_time()

    def spent(self) -> Spent:
        """Since then."""
        return Spent(time.perf_counter() - self.wall, time.process_time() - self.processor)
