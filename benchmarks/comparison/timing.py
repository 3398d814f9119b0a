"""What work costs in float passes: both are done in turn, so that a busy machine slows both alike."""

import statistics
import time
from collections.abc import Callable, Sequence

from torch import nn

from benchmarks.comparison.spent import Spent, Stopwatch
from benchmarks.models.model import Tensors, outputs

ROUNDS = 5
LONGEST_SECONDS = 60.0
"""So long is work repeated; float passes go on."""


def in_float_passes(work: Callable[[], Spent], network: nn.Module, samples: Tensors) -> Spent:
    """Median of what `work` says it took, over the median of a float pass of the samples, by each clock."""
    taken: list[Spent] = []
    plain: list[Spent] = []
    started = time.perf_counter()
    for _ in range(ROUNDS):
        watch = Stopwatch()
        outputs(network, samples)
        plain.append(watch.spent())
        if not taken or time.perf_counter() - started < LONGEST_SECONDS:
            taken.append(work())
    work_time, pass_time = _median(taken), _median(plain)
    return Spent(work_time.wall / pass_time.wall, work_time.processor / pass_time.processor)


def _median(rounds: Sequence[Spent]) -> Spent:
    return Spent(*(statistics.median(clock) for clock in zip(*rounds, strict=True)))
