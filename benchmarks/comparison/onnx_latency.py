"""Call two ONNX files in turn in one library, and print how many times as fast the second one is; needs no torch.

python -m benchmarks.comparison.onnx_latency LIBRARY FIRST.onnx SECOND.onnx SAMPLES.safetensors BATCH
"""

import statistics
import sys
import time
from collections.abc import Callable

from safetensors.numpy import load_file

from benchmarks.comparison.onnx_run import LIBRARIES, Arrays, batches

ROUNDS = 15
SHORTEST_SECONDS = 0.05
"""So long at least is one file called before the other's turn."""


def seconds(run: Callable[[Arrays], object], feed: Arrays, calls: int) -> float:
    """Return the wall time of one of so many calls."""
    began = time.perf_counter()
    for _ in range(calls):
        run(feed)
    return (time.perf_counter() - began) / calls


def main(library: str, first: str, second: str, samples: str, size: str) -> None:
    """Print milliseconds of both, and the median of the rounds' ratios with its quartiles."""
    feed = next(batches(load_file(samples), int(size)))
    runs = [LIBRARIES[library](path) for path in (first, second)]
    calls = [max(1, round(SHORTEST_SECONDS / max(seconds(run, feed, 1), seconds(run, feed, 2)))) for run in runs]
    rounds = [[seconds(run, feed, count) for run, count in zip(runs, calls, strict=True)] for _ in range(ROUNDS)]
    low, middle, high = statistics.quantiles([before / after for before, after in rounds], n=4)
    both = (1000 * statistics.median(times) for times in zip(*rounds, strict=True))
    print("  {}: float {:.2f} ms, int8 {:.2f} ms".format(library, *both), f"  x{middle:5.2f} [{low:.2f} - {high:.2f}]")


if __name__ == "__main__":
    main(*sys.argv[1:])
