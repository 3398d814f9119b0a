"""What checkpoints cost, for the layers of transformers of three depths: the time to write one of a calibration with
histograms, and of finished layers, as a share of the time between two.

python -m benchmarks.checkpoints
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from zeropoint.calibration.resume import Pass
from zeropoint.files.checkpoints import Checkpoints
from zeropoint.layers.checkpoints import finished_layers
from zeropoint.layers.quantize import quantize_layer
from zeropoint.layers.selection import Choice
from zeropoint.observers.statistics import LONGEST_HISTORY, Collector
from zeropoint.schema.job import JobSpec
from zeropoint.schema.recipe import WeightSettings
from zeropoint.simulation.processor import features
from zeropoint.sources.module import module_source

SIZES = {"MiniLM-L6": 6, "MiniLM-L12": 12, "24 blocks of that width": 24}
WIDTH, INNER = 384, 1536
ROUNDS = 9
SECONDS = JobSpec.model_fields["checkpoint_seconds"].default


class AtTheEnd(Checkpoints):
    """Nothing is written before the phase is over: one chunk holds every layer."""

    @property
    def due(self) -> bool:
        return False


def transformer(blocks: int) -> nn.Sequential:
    """The linear layers of so many blocks."""
    shapes = [(WIDTH, WIDTH)] * 4 + [(WIDTH, INNER), (INNER, WIDTH)]
    return nn.Sequential(*(nn.Linear(*shape) for shape in shapes * blocks))


def milliseconds(work: Callable[[], object]) -> float:
    """The median of several calls."""
    times = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        work()
        times.append(1000 * (time.perf_counter() - started))
    return statistics.median(times)


def measure(name: str, blocks: int, folder: Path) -> None:
    source = module_source(transformer(blocks))
    collectors = {layer.name: Collector(histogram=True) for layer in source.layers}
    for _ in range(LONGEST_HISTORY - 1):
        for collector in collectors.values():
            collector.observe(torch.randn(1, 8))
    checkpoints, left = Checkpoints(folder, "key"), Pass(source, collectors, 1)
    _say(name, f"a calibration of {len(collectors)} layers", milliseconds(lambda: left.keep(checkpoints)), folder)
    choices = [Choice(layer, WeightSettings(), None) for layer in source.layers]
    layers = [quantize_layer(choice, None) for choice in choices]
    finished = finished_layers(AtTheEnd(folder, "key"), choices)

    def keep() -> None:
        for layer in layers:
            finished.add(layer.layer.name, layer)
        finished.close()

    _say(name, f"{len(layers)} finished layers", milliseconds(keep), folder)


def _say(name: str, what: str, cost: float, folder: Path) -> None:
    size = max(folder.iterdir(), key=lambda path: path.stat().st_mtime).stat().st_size
    print(f"{name}: {what}: {cost:.1f} ms, {size / 1e6:.1f} MB, {cost / (10 * SECONDS):.2f} % of {SECONDS:g} s")


if __name__ == "__main__":
    print(features(), flush=True)
    for name, blocks in SIZES.items():
        with tempfile.TemporaryDirectory() as folder:
            measure(name, blocks, Path(folder))
