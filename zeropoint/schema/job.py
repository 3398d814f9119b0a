"""The job folder: what the child program reads and writes. Torch-free; the worker writes the one, reads the other.

    FOLDER/job.json                  JobSpec
    FOLDER/<spec.model>              the model file, <spec.dataset>, <spec.evaluation_dataset> likewise
    FOLDER/<spec.profile>            statistics to reuse in place of a calibration pass, if named
    FOLDER/profile.safetensors       statistics to keep, when `keep_profile` asks for them
    FOLDER/checkpoints/<name>        what long phases have done so far, when `checkpoint_key` asks for it; found there
                                     when the program starts, it goes on from it (see `checkpoints`)
    FOLDER/out/<name>                every artifact, and report.json; of a sweep sweep.json alone
    FOLDER/out/error.json            Failure, when the program ends with EXIT_FAILED

On standard output the program writes one Progress as JSON a line, and nothing else; what libraries say goes to
standard error.
"""

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
"""What a job's program waits for on standard input: its folder holds the job, and keeps its path from now on."""

JOB_FILE = "job.json"
CHECKPOINT_FOLDER = "checkpoints"
OUT_FOLDER = "out"
REPORT_FILE = "report.json"
SWEEP_FILE = "sweep.json"
ERROR_FILE = "error.json"
PROFILE_FILE = "profile.safetensors"

EXIT_OK = 0
EXIT_FAILED = 1
"""The program itself says why, in error.json. Any other code is a crash."""


class JobSpec(Frozen):
    """What to do, with file names relative to the folder."""

    model: str
    format: SourceFormat = "pt2"
    dataset: str | None = None
    evaluation_dataset: str | None = None
    profile: str | None = None
    keep_profile: bool = False
    device: Literal["cpu", "cuda"] = "cpu"
    recipe: Recipe = Recipe()
    sweep: tuple[SweepEntry, ...] = ()
    """Recipes to compare: then no model is written, and `recipe` says nothing."""
    latency: bool = False
    """Whether a sweep measures how long a call takes."""
    checkpoint_key: str | None = None
    """Names all that decides the result: inputs, recipe, device, versions. None: no checkpoint is written or read."""
    checkpoint_seconds: float = Field(default=30.0, ge=0, allow_inf_nan=False)
    """How much work may be lost: a long phase leaves a checkpoint this often, a shorter one none."""


class Progress(Frozen):
    """One step of one phase: `done` of `total` (total 0: not known)."""

    phase: Phase
    done: int = Field(default=0, ge=0)
    total: int = Field(default=0, ge=0)


class Failure(Frozen):
    """Why the job could not be done, in words for the API's user."""

    code: str
    title: str
    detail: str
    remedy: str
    phase: Phase | None = None


def read_spec(folder: Path) -> JobSpec:
    """Read FOLDER/job.json. Raises pydantic.ValidationError or OSError: the caller made the folder."""
    return JobSpec.model_validate_json((folder / JOB_FILE).read_bytes())
