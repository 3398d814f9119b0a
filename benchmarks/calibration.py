"""What calibration costs, as ratios to the float model's own pass over the same samples; what each observer
gives, and how many samples it takes.

python -m benchmarks.calibration [JOB_FOLDER]       model.pt2, dataset.safetensors and, for SQNR, evaluation.safetensors

Passes are interleaved (float, ranges, histograms, float, …), so that a busy machine slows all of them alike; the ratio
is the median over rounds. Without a folder: the digits network of examples/digits.py.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from examples import digits
from zeropoint.calibration.collect import Wanted, collect
from zeropoint.calibration.profile import Profile
from zeropoint.data.dataset import Dataset, open_dataset
from zeropoint.engine.plan import plan
from zeropoint.engine.quantize import quantize_source
from zeropoint.formats.program.writer import quantized_program
from zeropoint.metrics.sqnr import Noise
from zeropoint.model.source import ProgramSource
from zeropoint.schema.recipe import Recipe
from zeropoint.simulation.processor import features
from zeropoint.sources.program import open_uploaded_program

ROUNDS = 15
COUNTS = (1, 4, 8, 16, 32, 64, 128)
OBSERVERS: list[dict[str, object]] = [
    {"kind": "minmax"},
    {"kind": "percentile", "percentile": 99.99},
    {"kind": "percentile", "percentile": 99.999},
    {"kind": "mse"},
]


def seconds(work: Callable[[], object]) -> float:
    """How long one call takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def float_pass(source: ProgramSource, samples: Dataset) -> None:
    """Read and run every batch, and look at nothing."""
    with torch.no_grad():
        for batch in samples:
            source.run(batch)


def print_costs(source: ProgramSource, samples: Dataset) -> Profile:
    """Print what collecting adds to a float pass; return the statistics."""
    names = {layer.name for layer in source.layers}
    works: dict[str, Callable[[], object]] = {
        "float": lambda: float_pass(source, samples),
        "ranges": lambda: collect(source, source.layers, samples, _silent, Wanted()),
        "histograms": lambda: collect(source, source.layers, samples, _silent, Wanted(names)),
    }
    float_pass(source, samples)
    rounds = [{name: seconds(work) for name, work in works.items()} for _ in range(ROUNDS)]
    print(f"{samples.count} samples, {len(samples)} batches, {torch.get_num_threads()} threads, {ROUNDS} rounds")
    for name in works:
        ratio = statistics.median(taken[name] / taken["float"] for taken in rounds)
        print(f"  {name:12}{ratio:6.2f} float passes {statistics.median(taken[name] for taken in rounds):9.3f} s")
    return collect(source, source.layers, samples, _silent, Wanted(names))


class Truth:
    """What the float model gives on the evaluation samples, to hold quantized programs against."""

    def __init__(self, source: ProgramSource, evaluation: Dataset) -> None:
        self.source, self.batches = source, list(evaluation)
        with torch.no_grad():
            self.outputs = [source.run(batch) for batch in self.batches]

    def db(self, recipe: Recipe, samples: Dataset, profile: Profile | None) -> tuple[float, float]:
        """SQNR in dB of the whole quantized model, and the seconds that deciding on ranges and weights took."""
        decided = plan(self.source, recipe, samples)
        started = time.perf_counter()
        quantized = quantize_source(self.source, recipe, decided, _silent, profile)
        taken, noise = time.perf_counter() - started, Noise()
        program = quantized_program(quantized).module()
        for batch, floats in zip(self.batches, self.outputs, strict=True):
            with torch.no_grad():
                outputs = pytree.tree_leaves(program(*batch))
            for value, output in zip(floats, outputs, strict=True):
                if isinstance(value, Tensor) and value.is_floating_point():
                    noise.add(value, output)
        return noise.db or 0.0, taken


def print_observers(truth: Truth, samples: Dataset, profile: Profile) -> None:
    """Print SQNR for each observer of activations and of weights, and what deciding takes."""
    for part in ("activations", "weights"):
        for settings in OBSERVERS:
            db, taken = truth.db(Recipe.model_validate({part: {"observer": settings}}), samples, profile)
            words = " ".join(str(value) for value in settings.values())
            print(f"  {part:12}{words:20}{db:8.2f} dB   ranges and weights in {taken:.2f} s")


def print_samples(truth: Truth, samples: Dataset) -> None:
    """Print SQNR with the first n samples."""
    for kind in ("minmax", "mse"):
        found = []
        for count in COUNTS:
            wishes = {"activations": {"observer": {"kind": kind}}, "calibration": {"samples": count}}
            found.append(f"{count}: {truth.db(Recipe.model_validate(wishes), samples, None)[0]:.2f}")
        print(f"  {kind:8}{'  '.join(found)}")


def main(folder: Path) -> None:
    """Measure the job in a folder."""
    print(features(), flush=True)
    source = open_uploaded_program(folder / "model.pt2", "cpu")
    samples = open_dataset(folder / "dataset.safetensors", source.inputs, None)
    calibration = plan(source, Recipe(), samples).calibration
    assert isinstance(calibration, Dataset)
    profile = print_costs(source, calibration)
    if (folder / "evaluation.safetensors").exists():
        evaluation = open_dataset(folder / "evaluation.safetensors", source.inputs, None)
        truth = Truth(source, evaluation)
        print_observers(truth, samples, profile)
        print_samples(truth, samples)


def _silent(*_: object) -> None:
    """Progress that nobody reads."""


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as name:
            digits.main(Path(name))
            for written, expected in (("digits.pt2", "model.pt2"), ("calibration.safetensors", "dataset.safetensors")):
                (Path(name) / written).rename(Path(name) / expected)
            main(Path(name))
