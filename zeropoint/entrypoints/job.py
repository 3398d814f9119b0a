"""A job's program: it does one job, from a folder to a folder (`python -m zeropoint job FOLDER` by hand).

It knows no service: what it reads and writes lies in FOLDER, progress goes to standard output as JSON lines.
"""

import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path
from subprocess import Popen
from tempfile import TemporaryDirectory
from traceback import print_exc

import torch

from zeropoint.calibration.cached_profile import cached_profile
from zeropoint.calibration.profile import Profile
from zeropoint.data.dataset import Dataset, open_dataset
from zeropoint.engine.plan import QuantizationPlan, plan
from zeropoint.engine.quantize import quantize_source
from zeropoint.entrypoints.clock import Clock, peak_memory_bytes
from zeropoint.entrypoints.failures import death_by
from zeropoint.entrypoints.sweep import run_sweep
from zeropoint.entrypoints.weights import run_weights
from zeropoint.errors import QuantizationError
from zeropoint.files.checkpoints import Checkpoints
from zeropoint.formats import VALIDATED, WRITERS, drop_unwanted, require_writers, write_formats
from zeropoint.layers.selection import require_fit
from zeropoint.loading.loadback import loadback_client, loadback_process
from zeropoint.metrics.task_metrics import require_truth_fits
from zeropoint.model.source import ProgramSource, Source
from zeropoint.schema.defaults import complete
from zeropoint.schema.failures import describe_failure
from zeropoint.schema.formats import formats_of
from zeropoint.schema.job import (
    CHECKPOINT_FOLDER,
    ERROR_FILE,
    EXIT_FAILED,
    EXIT_OK,
    GO,
    OUT_FOLDER,
    PROFILE_FILE,
    Failure,
    JobSpec,
    Phase,
    ProgressCallback,
    read_spec,
)
from zeropoint.schema.recipe import Recipe
from zeropoint.simulation.measure import Evaluator
from zeropoint.sources import open_source
from zeropoint.sources.huggingface.source import HuggingFaceSource
from zeropoint.validation.evaluation import evaluate
from zeropoint.validation.report import build_plan, build_report, settle


def main(lock_down: Callable[[], None], *read_back: str) -> int:
    """Get ready, wait for GO on standard input, and do the job of the working directory; without GO do nothing.

    `lock_down` is called once the second process runs, whose command line is `read_back`. Returns the exit code.
    """
    with loadback_process(read_back) as process:
        lock_down()
        return do_job(Path.cwd(), process) if sys.stdin.buffer.readline() == GO else EXIT_OK


def run_by_hand(folder: Path) -> int:
    """Do the job of `folder` and return the exit code (see `schema.job`)."""
    with loadback_process() as process:
        return do_job(folder.resolve(), process)


def do_job(folder: Path, process: Popen[bytes]) -> int:
    """Do the job of `folder`, a path that stays. `process`: started by `loadback_process`, reads back what was saved.

    What goes wrong becomes the exit code and FOLDER/out/error.json.
    """
    lines = sys.stdout
    clock = Clock(lambda progress: print(progress.model_dump_json(), file=lines, flush=True))
    with redirect_stdout(sys.stderr):
        failure = _attempt(folder, clock, process)
    if failure is None:
        return EXIT_OK
    (folder / OUT_FOLDER).mkdir(exist_ok=True)
    (folder / OUT_FOLDER / ERROR_FILE).write_text(failure.model_dump_json())
    return EXIT_FAILED


def run(folder: Path, spec: JobSpec, clock: Clock, process: Popen[bytes]) -> None:
    """The steps of a job. Raises QuantizationError; the report is on disk as soon as there is one."""
    out = folder / OUT_FOLDER
    out.mkdir(exist_ok=True)
    torch.manual_seed(spec.recipe.seed)
    with loadback_client(folder, process) as reader, TemporaryDirectory(dir=folder) as scratch:
        # 1. load
        clock.report("loading", 0, 1)
        require_fit(spec.recipe, spec.format)
        source = open_source(folder / spec.model, spec.format, spec.device, fold=spec.recipe.folds)
        if spec.format == "huggingface":  # a job of the service says all of it; one by hand may not
            spec = spec.model_copy(
                update={"recipe": complete(spec.recipe, spec.format, [n.name for n in source.layers])}
            )
        wanted = formats_of(spec.recipe, spec.format)
        require_writers(source, wanted)
        samples, evaluation_samples = _samples(folder, spec, source)
        planned = plan(source, spec.recipe, samples, evaluation_samples)
        clock.report("loading", 1, 1)
        # 2. calibrate and quantize
        checkpoints = Checkpoints(folder / CHECKPOINT_FOLDER, spec.checkpoint_key, spec.checkpoint_seconds)
        profile = _profile(folder, spec, source, planned, partial(clock.report, "calibrating"), checkpoints=checkpoints)
        chosen = planned.evaluation
        quantized = quantize_source(
            source,
            spec.recipe,
            planned,
            clock.report,
            profile,
            checkpoints=checkpoints,
            scratch=Path(scratch),
            metric_drop=None if chosen.batches is None else Evaluator(source, chosen.batches).metric_drop(spec.recipe),
        )
        if spec.recipe.mode == "recommend":
            settle(build_plan(quantized, clock.finished(), peak_memory_bytes()), out)
            return
        # 3. save
        written = [name for name in WRITERS if name in {*wanted, *VALIDATED.get(spec.format, ())}]
        for done, _ in enumerate(write_formats(quantized, out, written), start=1):
            clock.report("saving", done, len(written))
        # 4. validate what was saved
        clock.report("validating", 0, 0)
        opened = reader.open(out)
        evaluation = None
        if chosen.batches is not None and opened:
            evaluation = evaluate(quantized, chosen.batches, reader, lambda *at: clock.report("validating", *at))
    report = build_report(
        quantized,
        evaluation,
        chosen.report,
        opened=opened,
        timings=clock.finished(),
        peak_memory_bytes=peak_memory_bytes(),
        loaded=reader.loaded,
        resumed=checkpoints.resumed,
    )
    drop_unwanted(out, written, wanted)
    settle(report, out)


def _samples(
    folder: Path, spec: JobSpec, source: ProgramSource | HuggingFaceSource
) -> tuple[Dataset | None, Dataset | None]:
    """What calibrates and what evaluates. Raises InvalidSamples when it doesn't fit the model."""
    batch_size = spec.recipe.calibration.batch_size
    given, evaluating = (
        None if name is None else open_dataset(folder / name, source.inputs, batch_size)
        for name in (spec.dataset, spec.evaluation_dataset)
    )
    judging = evaluating or given
    if judging is not None:
        require_truth_fits(source, judging)
    return given, evaluating


def _profile(
    folder: Path,
    spec: JobSpec,
    source: Source,
    planned: QuantizationPlan,
    step: ProgressCallback,
    *,
    checkpoints: Checkpoints,
) -> Profile | None:
    """Return the statistics to reuse, or those to keep; None when neither is asked."""
    if (spec.profile is None and not spec.keep_profile) or planned.calibration is None:
        return None
    load = None if spec.profile is None else folder / spec.profile
    save = folder / PROFILE_FILE if spec.keep_profile else None
    return cached_profile(source, planned.calibration, step, load=load, save=save, checkpoints=checkpoints)


def _attempt(folder: Path, clock: Clock, process: Popen[bytes]) -> Failure | None:
    """Run, and turn what goes wrong into words for the user; what it was goes to standard error."""
    recipe = Recipe()
    try:
        spec = read_spec(folder)
        recipe = spec.recipe
        if spec.sweep:
            run_sweep(folder, spec, clock)
        else:
            steps = run_weights if spec.format == "safetensors" else run
            steps(folder, spec, clock, process)
    except QuantizationError as error:
        return death_by(error, clock.phase, recipe) or _refusal(error, clock.phase)
    except Exception as error:
        print_exc()
        return death_by(error, clock.phase, recipe) or describe_failure("internal_error", clock.phase)
    return None


def _refusal(error: QuantizationError, phase: Phase) -> Failure:
    return Failure(code=error.code, title=error.title, detail=error.detail, remedy=error.remedy, phase=phase)
