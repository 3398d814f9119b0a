"""The job folder, through which the worker and the job's program exchange files. Torch-free.

    FOLDER/job.json                  JobSpec
    FOLDER/<spec.model>              the model file, <spec.dataset>, <spec.evaluation_dataset> likewise
    FOLDER/<spec.profile>            statistics to reuse in place of a calibration pass, if named
    FOLDER/profile.safetensors       statistics to keep, if `keep_profile` is set
    FOLDER/checkpoints/<name>        results of long phases, if `checkpoint_key` is set; the program resumes from those
                                     that exist when it starts (see `layers.checkpoints`)
    FOLDER/out/<name>                every artifact, and report.json; for a sweep only sweep.json
    FOLDER/out/error.json            Failure, when the program ends with EXIT_FAILED

On standard output the program writes only Progress, as one JSON object per line; messages of libraries go to standard
error.
"""

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from pydantic import Field

from zeropoint.schema.formats import SourceFormat
from zeropoint.schema.frozen import Frozen
from zeropoint.schema.recipe import Recipe
from zeropoint.schema.sweep import SweepEntry

Phase = Literal["loading", "calibrating", "quantizing", "saving", "validating", "publishing"]

ProgressCallback = Callable[[int, int], object]
"""Called with (done, total) after each batch, layer or tensor; total 0 means that it is not known."""
PhaseCallback = Callable[[Phase, int, int], object]
"""Called with (phase, done, total) at every step."""

GO = b"go\n"
"""The line that a job's program waits for on standard input: its folder is complete and will not move."""

COMPILE_SECONDS = 120
"""Most seconds for which a program is compiled, unless a setting says otherwise."""
JOB_FILE = "job.json"
CHECKPOINT_FOLDER = "checkpoints"
OUT_FOLDER = "out"
REPORT_FILE = "report.json"
SWEEP_FILE = "sweep.json"
ERROR_FILE = "error.json"
PROFILE_FILE = "profile.safetensors"

FROM_OUTSIDE = frozenset({signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGKILL, signal.SIGTERM})
"""Signals that no fault of a program raises: whoever sends them wants it gone. The system does when memory runs out."""

EXIT_OK = 0
EXIT_FAILED = 1
"""The program gives the reason in error.json. Any other code but the next is a crash."""
EXIT_USAGE = 2
"""A program started by hand got a path that does not exist; it says which on standard error."""


class JobSpec(Frozen):
    """The job, with file names relative to the folder."""

    model: str
    format: SourceFormat = "pt2"
    dataset: str | None = None
    evaluation_dataset: str | None = None
    profile: str | None = None
    keep_profile: bool = False
    device: Literal["cpu", "cuda"] = "cpu"
    recipe: Recipe = Recipe()
    sweep: tuple[SweepEntry, ...] = ()
    """Recipes to compare; no model is written then, and `recipe` is ignored."""
    latency: bool = False
    """Whether a sweep measures the latency of a call."""
    compile_seconds: int = Field(default=COMPILE_SECONDS, ge=0)
    """Most seconds for which `model.pt2` is compiled to measure what users get of it; 0: it is not."""
    checkpoint_key: str | None = None
    """Identifies all that decides the result: inputs, recipe, device, versions. None: no checkpoints are used."""
    checkpoint_seconds: float = Field(default=30.0, ge=0, allow_inf_nan=False)
    """Seconds between the checkpoints of a phase, so the most work that can be lost; a shorter phase writes none."""


class Progress(Frozen):
    """A step of a phase: `done` of `total`; a total of 0 is not known."""

    phase: Phase
    done: int = Field(default=0, ge=0)
    total: int = Field(default=0, ge=0)


class Failure(Frozen):
    """The reason why a job failed, in words for the API's user."""

    code: str
    title: str
    detail: str
    remedy: str
    phase: Phase | None = None


def missing_path(folder: Path, *files: Path | None) -> str | None:
    """Return a sentence about the first path that a program can't read; None when all are there."""
    if not folder.is_dir():
        return f"{folder} is not a folder." if folder.exists() else f"There is no folder {folder}."
    return next((f"There is no file {file}." for file in files if file is not None and not file.is_file()), None)


def read_spec(folder: Path) -> JobSpec:
    """Read FOLDER/job.json. Raises pydantic.ValidationError or OSError."""
    return JobSpec.model_validate_json((folder / JOB_FILE).read_bytes())
