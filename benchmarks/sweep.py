"""What a sweep costs, as ratios: k recipes in one sweep, against a job on one of them, and against a sweep of one.

python -m benchmarks.sweep [FOLDER]     model.pt2, calibration.safetensors, perhaps evaluation.safetensors

Without a folder: the digits of examples/.
Folder in, folder out, in one process: a job loads, calibrates, quantizes, saves and validates; a sweep of one is all
that a job does but for saving and validating what was saved. Rounds measure all in turns, so that a busy machine slows
all alike; seconds of processor time, of this process alone, are less disturbed than wall time.
"""

import shutil
import statistics
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from examples import digits
from zeropoint.entrypoints.clock import Clock
from zeropoint.entrypoints.job import run
from zeropoint.entrypoints.sweep import run_sweep
from zeropoint.loading.loadback import loadback_process
from zeropoint.schema.job import JobSpec
from zeropoint.schema.recipe import Recipe
from zeropoint.schema.sweep import SweepEntry
from zeropoint.simulation.processor import features

RECIPES: Mapping[str, dict[str, object]] = {
    "minmax": {},
    "percentile": {"activations": {"observer": {"kind": "percentile"}}},
    "percentile 99.99": {"activations": {"observer": {"kind": "percentile", "percentile": 99.99}}},
    "mse": {"activations": {"observer": {"kind": "mse"}}},
    "symmetric": {"activations": {"dtype": "qint8", "scheme": "symmetric"}},
    "per tensor": {"weights": {"granularity": "per_tensor"}},
    "weight-only": {"activations": None},
    "int4": {"weights": {"dtype": "int4"}},
}
ROUNDS = 3
SHARE = 0.15
"""What each further recipe may cost, of the first one's cost."""

Seconds = tuple[float, float]
"""Wall and processor time."""


def job(folder: Path, recipe: Recipe) -> Seconds:
    """One job, its second process started before, as a worker does."""
    spec = _spec(folder).model_copy(update={"recipe": recipe})
    with loadback_process() as process:
        began = _now()
        run(folder, spec, Clock(lambda _: None), process)
        return _since(began)


def sweep(folder: Path, names: list[str]) -> Seconds:
    """One sweep."""
    entries = tuple(SweepEntry(name=name, recipe=Recipe.model_validate(RECIPES[name])) for name in names)
    began = _now()
    run_sweep(folder, _spec(folder).model_copy(update={"sweep": entries}), Clock(lambda _: None))
    return _since(began)


def _spec(folder: Path) -> JobSpec:
    evaluation = "evaluation.safetensors"
    given = evaluation if (folder / evaluation).exists() else None
    return JobSpec(model="model.pt2", dataset="calibration.safetensors", evaluation_dataset=given)


def _now() -> Seconds:
    return time.perf_counter(), time.process_time()


def _since(began: Seconds) -> Seconds:
    wall, processor = _now()
    return wall - began[0], processor - began[1]


def main(given: Path) -> None:
    """Print what each took, and the ratios: medians over rounds."""
    print(features(), flush=True)
    with TemporaryDirectory() as scratch:
        folder = Path(scratch) / "job"
        shutil.copytree(given, folder)
        names = list(RECIPES)
        sweep(folder, names[:1])  # warm
        rounds = [(job(folder, Recipe()), sweep(folder, names[:1]), sweep(folder, names)) for _ in range(ROUNDS)]
    goal = 1 + SHARE * (len(names) - 1)
    print(f"{len(names)} recipes; the goal is {goal:.2f} times one, and one after another is {len(names)} times")
    for kind, unit in ((0, "wall"), (1, "processor")):
        for what, column in (("a job", 0), ("a sweep of one", 1)):
            ratio = statistics.median(times[2][kind] / times[column][kind] for times in rounds)
            one = statistics.median(times[column][kind] for times in rounds)
            print(f"  {unit} time: {ratio:.2f} times {what} ({one:.2f} s)")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))
    else:
        with TemporaryDirectory() as made:
            digits.main(Path(made))
            (Path(made) / "digits.pt2").rename(Path(made) / "model.pt2")
            main(Path(made))
