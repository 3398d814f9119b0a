"""The program of a job: it does one job, all in one folder (`python -m zeropoint job FOLDER` by hand).

It doesn't depend on the service: it reads and writes in FOLDER, and prints progress to standard output as JSON lines.
"""

import os
import signal
import sys
from contextlib import redirect_stdout, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from traceback import print_exc
from typing import NoReturn

import torch
from pydantic import ValidationError

from zeropoint.entrypoints import steps
from zeropoint.entrypoints.clock import Clock
from zeropoint.entrypoints.failures import death_by
from zeropoint.entrypoints.steps import Outputs, ProfilePlaces, Work, open_samples
from zeropoint.entrypoints.sweep import run_sweep
from zeropoint.entrypoints.weights import run_weights
from zeropoint.errors import InvalidJob, Killed, QuantizationError, invalid_recipe
from zeropoint.files.checkpoints import Checkpoints
from zeropoint.formats import drop_unwanted, require_writers
from zeropoint.layers.selection import require_fit
from zeropoint.loading.compiled import LockDown
from zeropoint.loading.loadback import LoadbackClient, Pipes, copied_process, loadback_client, loadback_process
from zeropoint.schema.defaults import complete
from zeropoint.schema.failures import describe_failure
from zeropoint.schema.faults import first_fault, keys_of
from zeropoint.schema.job import (
    CHECKPOINT_FOLDER,
    ERROR_FILE,
    EXIT_FAILED,
    EXIT_OK,
    EXIT_USAGE,
    GO,
    JOB_FILE,
    OUT_FOLDER,
    PROFILE_FILE,
    Failure,
    JobSpec,
    Phase,
    missing_path,
    read_spec,
)
from zeropoint.schema.recipe import Recipe
from zeropoint.sources import open_source
from zeropoint.validation.report import settle


def main(lock_down: LockDown) -> int:
    """Prepare, wait for GO on standard input, and do the job in the working directory; without GO, do nothing.

    `lock_down` is called in the second process and, after its start, in this one. Returns the exit code.
    """
    with copied_process(lock_down) as pipes:
        lock_down()
        return do_job(Path.cwd(), pipes) if sys.stdin.buffer.readline() == GO else EXIT_OK


def run_by_hand(folder: Path) -> int:
    """Do the job of `folder` and return the exit code (see `schema.job`)."""
    if missing := missing_path(folder):
        print(missing, file=sys.stderr)  # noqa: T201 - a program speaks
        return EXIT_USAGE
    with loadback_process() as pipes:
        return do_job(folder.resolve(), pipes)


def do_job(folder: Path, pipes: Pipes) -> int:
    """Do the job of `folder`, whose path must not change, and return the exit code.

    `pipes`: of the process that reads the saved files back. Errors are written to FOLDER/out/error.json.
    """
    lines = sys.stdout
    clock = Clock(lambda progress: print(progress.model_dump_json(), file=lines, flush=True))
    with redirect_stdout(sys.stderr):
        failure = _attempt(folder, clock, pipes)
    if failure is None:
        return EXIT_OK
    (folder / OUT_FOLDER).mkdir(exist_ok=True)
    (folder / OUT_FOLDER / ERROR_FILE).write_text(failure.model_dump_json())
    return EXIT_FAILED


def run(folder: Path, spec: JobSpec, clock: Clock, pipes: Pipes) -> None:
    """Do a job on a model with a graph, and write its report. Raises QuantizationError."""
    out = folder / OUT_FOLDER
    out.mkdir(exist_ok=True)
    torch.manual_seed(spec.recipe.seed)
    with loadback_client(folder, pipes) as reader, TemporaryDirectory(dir=folder) as scratch:
        work = _load(folder, spec, clock, reader, Path(scratch))
        report = steps.run(work)
    if spec.recipe.mode != "recommend":
        drop_unwanted(out, work.outputs.written, work.outputs.wanted)
    settle(report, out)


def _load(folder: Path, spec: JobSpec, clock: Clock, reader: LoadbackClient, scratch: Path) -> Work:
    """Open the model and its datasets. Raises InvalidModel, InvalidRecipe, InvalidSamples or Unsupported."""
    clock.report("loading", 0, 1)
    recipe = spec.recipe
    require_fit(recipe, spec.format)
    source = open_source(folder / spec.model, spec.format, spec.device, fold=recipe.folds, merge_lora=recipe.merge_lora)
    if spec.format == "huggingface":  # the recipe of a service's job is complete; one by hand may not be
        recipe = complete(recipe, spec.format, [layer.name for layer in source.layers])
    outputs = Outputs.of(recipe, spec.format)
    require_writers(source, outputs.wanted)
    samples, evaluation = open_samples(folder, spec, source, recipe.calibration.batch_size)
    return Work(
        source=source,
        recipe=recipe,
        samples=samples,
        evaluation=evaluation,
        folder=folder / OUT_FOLDER,
        outputs=outputs,
        saved=reader,
        clock=clock,
        profile=ProfilePlaces(
            load=None if spec.profile is None else folder / spec.profile,
            save=folder / PROFILE_FILE if spec.keep_profile else None,
        ),
        compile_seconds=spec.compile_seconds,
        checkpoints=Checkpoints(folder / CHECKPOINT_FOLDER, spec.checkpoint_key, spec.checkpoint_seconds),
        scratch=scratch,
    )


def _attempt(folder: Path, clock: Clock, pipes: Pipes) -> Failure | None:
    """Run the job; if it fails, return a failure for the user. Unexpected exceptions are printed to standard error."""
    recipe = Recipe()
    try:
        spec = _read_spec(folder)
        recipe = spec.recipe
        if spec.sweep:
            run_sweep(folder, spec, clock)
        else:
            mode = run_weights if spec.format == "safetensors" else run
            mode(folder, spec, clock, pipes)
    except Killed as killed:
        _die_of(killed.signal)
    except QuantizationError as error:
        return death_by(error, clock.phase, recipe) or _refusal(error, clock.phase)
    except Exception as error:
        print_exc()
        return death_by(error, clock.phase, recipe) or describe_failure("internal_error", clock.phase)
    return None


def _die_of(number: int) -> NoReturn:
    """End as the second process did: whoever started the job judges a part of it as the whole."""
    with suppress(OSError):  # SIGKILL has no handler
        signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    raise RuntimeError(f"signal {number} did not end this process")


def _read_spec(folder: Path) -> JobSpec:
    """Read the folder's job.json.

    Raises InvalidRecipe for a fault in a recipe, InvalidJob for any other, or if a file that it names is missing.
    """
    try:
        spec = read_spec(folder)
    except OSError as error:
        raise _invalid_job(f"The folder has no readable {JOB_FILE}.") from error
    except ValidationError as error:
        pointer, problem = first_fault(error, keys_of(JobSpec))
        if pointer.startswith(("/recipe", "/sweep")):
            raise invalid_recipe(pointer, problem) from error
        raise _invalid_job(f"{JOB_FILE}{f': {pointer}' if pointer else ''} {problem}.") from error
    for name in filter(None, (spec.model, spec.dataset, spec.evaluation_dataset, spec.profile)):
        if not (folder / name).exists():
            raise _invalid_job(f"{JOB_FILE} names {name!r}, and the folder has no such file.")
    return spec


def _invalid_job(detail: str) -> InvalidJob:
    return InvalidJob("job_invalid", detail, "See docs/reference/cli.md for the files and keys of a job's folder.")


def _refusal(error: QuantizationError, phase: Phase) -> Failure:
    return Failure(code=error.code, title=error.title, detail=error.detail, remedy=error.remedy, phase=phase)
