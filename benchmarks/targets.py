"""How often a met target is missed on fresh samples, and how much of the model stays in float for it.

python -m benchmarks.targets [MODEL ...] [--jobs N] [--seed N]     models: digits, minilm, mtcnn_onet

Each job draws its samples anew from a model's pool: some that calibrate, some that the job keeps out to evaluate, and
fresh ones that it never sees. It asks for an SQNR around what int8 gives by itself. A met target is missed if the fresh
samples have less than was asked. docs/explanation/accuracy.md says how to read the table.
"""

import argparse
import random
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from safetensors.torch import save_file
from torch import Tensor

from benchmarks.models import MODELS
from benchmarks.models.model import Tensors, export
from zeropoint.data.dataset import Dataset, open_dataset
from zeropoint.engine.plan import plan
from zeropoint.engine.quantize import quantize_source
from zeropoint.model.source import Source
from zeropoint.schema.recipe import Recipe
from zeropoint.simulation.measure import Evaluator
from zeropoint.simulation.processor import features
from zeropoint.sources import open_source

CALIBRATING, EVALUATING, FRESH = 128, 32, 64
LEAST_ABOVE, MOST_ABOVE = -4.0, 12.0
"""The SQNR asked for, in dB above what the preset int8-static has on the same model."""


@dataclass(frozen=True)
class Outcome:
    """One job: what was asked, whether it was met, what fresh samples have, and what it cost."""

    asked: float
    met: bool
    fresh_db: float
    macs: float
    size: float
    trials: int | None


def pool(name: str) -> Tensors:
    """Return all samples of a model, of one kind, in a random order."""
    model, count = MODELS[name], {"digits": 1253, "minilm": 1500, "mtcnn_onet": 800}[name]
    parts = [model.calibration(count), model.evaluation(600)]
    if name == "mtcnn_onet":  # every second one is one of 40 faces again
        parts[0] = {key: tensor[::2] for key, tensor in parts[0].items()}
    joined = {key: torch.cat([part[key] for part in parts]) for key in parts[0]}
    order = torch.randperm(len(next(iter(joined.values()))), generator=torch.Generator().manual_seed(0))
    return {key: tensor[order].contiguous() for key, tensor in joined.items()}


def run(
    source: Source, datasets: Callable[[int, list[int]], Dataset], draw: random.Random, rows: int, base: float
) -> Outcome:
    """Do one job."""
    places = draw.sample(range(rows), CALIBRATING + EVALUATING + FRESH)
    samples = datasets(CALIBRATING + EVALUATING, places)
    fresh = datasets(FRESH, places[CALIBRATING + EVALUATING :])
    asked = base + draw.uniform(LEAST_ABOVE, MOST_ABOVE)
    recipe = Recipe.model_validate({"target": {"min_sqnr_db": asked}, "calibration": {"samples": CALIBRATING}})
    torch.manual_seed(0)
    planned = plan(source, recipe, samples)
    result = quantize_source(source, recipe, planned, lambda *_: None)
    assert planned.evaluation.batches is not None
    assert result.decisions.target is not None
    evaluated = Evaluator(source, planned.evaluation.batches).noise(result.layers).db
    target = result.decisions.target
    return Outcome(
        asked=asked,
        met=target.met and (evaluated is None or evaluated >= asked),
        fresh_db=Evaluator(source, fresh).noise(result.layers).db or 999.0,
        macs=target.macs_in_float or 0.0,
        size=result.bytes / source.original_bytes,
        trials=getattr(target, "trials", None),
    )


def measure(name: str, jobs: int, seed: int) -> None:
    """Print a line for each job of a model, and a summary."""
    samples = pool(name)
    rows = len(next(iter(samples.values())))
    with TemporaryDirectory() as place:
        folder = Path(place)
        torch.export.save(export(MODELS[name].load(), samples), folder / "model.pt2")
        source = open_source(folder / "model.pt2", "pt2", "cpu", fold=True)

        def dataset(count: int, places: list[int]) -> Dataset:
            path = folder / f"{count}.safetensors"
            chosen: dict[str, Tensor] = {key: tensor[places[:count]].contiguous() for key, tensor in samples.items()}
            save_file(chosen, path)
            return open_dataset(path, source.inputs, None)

        draw = random.Random(seed)
        base = _plain_db(source, dataset(CALIBRATING, draw.sample(range(rows), CALIBRATING)))
        outcomes = []
        for number in range(jobs):
            outcomes.append(run(source, dataset, draw, rows, base))
            last = outcomes[-1]
            print(
                f"{name} {number}: asked {last.asked:.1f}, met {last.met}, fresh {last.fresh_db:.2f}, "
                f"float work {last.macs:.1%}, bytes {last.size:.3f}, trials {last.trials}",
                flush=True,
            )
    met = [outcome for outcome in outcomes if outcome.met]
    missed = [outcome for outcome in met if outcome.fresh_db < outcome.asked]
    work = statistics.mean(outcome.macs for outcome in met) if met else 0.0
    size = statistics.mean(outcome.size for outcome in met) if met else 0.0
    print(
        f"## {name}: {jobs} jobs (base {base:.1f} dB), {len(met)} met, of these {len(missed)} missed on fresh samples; "
        f"of those met {work:.1%} of the work in float, {size:.3f} of the bytes",
        flush=True,
    )


def _plain_db(source: Source, samples: Dataset) -> float:
    recipe = Recipe()
    result = quantize_source(source, recipe, plan(source, recipe, samples), lambda *_: None)
    return Evaluator(source, samples).noise(result.layers).db or 0.0


def main() -> None:
    """Measure every model that was named."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.targets")
    parser.add_argument("models", nargs="*", metavar="MODEL", default=["digits", "minilm", "mtcnn_onet"])
    parser.add_argument("--jobs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    print(features(), flush=True)
    for name in chosen.models:
        measure(name, chosen.jobs, chosen.seed)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
