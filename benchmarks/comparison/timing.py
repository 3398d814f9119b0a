"""What work costs in float passes: both are done in turn, so that a busy machine slows both alike."""

import statistics
import time
from collections.abc import Callable

from torch import nn

from benchmarks.models.model import Tensors, outputs

ROUNDS = 5
LONGEST_SECONDS = 60.0
"""So long is work repeated; float passes go on."""


def in_float_passes(work: Callable[[], float], network: nn.Module, samples: Tensors) -> float:
    """Median of the seconds that `work` says it took, over the median of a float pass of the samples."""
    taken: list[float] = []
    plain: list[float] = []
    started = time.perf_counter()
    for _ in range(ROUNDS):
        plain.append(_seconds(network, samples))
        if not taken or time.perf_counter() - started < LONGEST_SECONDS:
            taken.append(work())
    return statistics.median(taken) / statistics.median(plain)


def _seconds(network: nn.Module, samples: Tensors) -> float:
    started = time.perf_counter()
    outputs(network, samples)
    return time.perf_counter() - started
