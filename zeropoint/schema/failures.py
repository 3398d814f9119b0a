"""The failures that end a job from outside: title, detail and remedy of each code, in words for the API's user.

The job's program reports a resource that the system refused; the worker reports a program that could not report itself.
Both take their texts from here.
"""

from collections.abc import Mapping
from typing import NamedTuple

from zeropoint.schema.job import Failure, Phase
from zeropoint.schema.recipe import DEFAULT_BATCH_SIZE, DEFAULT_CALIBRATION_SAMPLES, Recipe


class Words(NamedTuple):
    """The texts that a user reads; `{when}` is the phase, `{smaller_batch}` and the like are the functions below."""

    title: str
    detail: str
    remedy: str


AGAIN = "Submit the job again; if it ends so again, report the job's id."

FAILURES: Mapping[str, Words] = {
    "blob_missing": Words(
        "An upload is gone",
        "The stored bytes of the model or a dataset are missing or were changed.",
        "Upload them again, submit the job with the new ids, and tell the operator.",
    ),
    "cpu_time_limit": Words(
        "The job took too much processor time",
        "The system stopped the quantization program {when}.",
        "{fewer_samples}, or ask the operator to raise ZEROPOINT_JOB_SECONDS.",
    ),
    "crashed": Words(
        "The quantization program crashed",
        "It ended with {how} {when}.",
        "Check that the model runs on one sample after torch.export.load; if it does, report the job's id.",
    ),
    "disk_limit": Words(
        "The job's files are too large",
        "A file could not grow {when}: the job's limit was reached, or the disk is full.",
        "{less_on_disk}, or ask the operator to raise ZEROPOINT_JOB_DISK_BYTES.",
    ),
    "internal_error": Words(
        "Something went wrong here", "The job failed {when}; the operator's log has the reason.", AGAIN
    ),
    "invalid_output": Words(
        "The result can't be used", "The quantization program ended, but its files are missing or malformed.", AGAIN
    ),
    "killed": Words(
        "The job's program was killed",
        "Something outside of the job ended it with {how} {when}, in attempt {attempt} as in those before.",
        "Submit the job again; if it ends so again, tell the operator that something kills programs on the workers.",
    ),
    "out_of_memory": Words(
        "Memory ran out",
        "The job needed more memory than it could get {when}.",
        "{smaller_batch}, or use a worker with more memory.",
    ),
    "sandbox_violation": Words(
        "The job did what no job may",
        "The quantization program asked the system for something that it never needs {when}.",
        "Export the model again with a torch that you trust; if it ends so again, report the job's id.",
    ),
    "storage_full": Words(
        "The storage is full",
        "There was no room for the job's files, however often it was tried.",
        "Ask the operator for room, or for a shorter ZEROPOINT_KEEP_JOBS_SECONDS; then submit the job again.",
    ),
    "storage_unavailable": Words(
        "The storage was away",
        "The job's files could not be fetched or stored, however often it was tried.",
        "Submit the job again; if it ends so again, tell the operator that the storage fails.",
    ),
    "wall_time_limit": Words(
        "The job took too long",
        "It was stopped after {seconds} seconds {when}.",
        "{fewer_samples}, or set a higher limits.running_seconds (at most ZEROPOINT_JOB_SECONDS).",
    ),
}


def describe_failure(
    code: str, phase: Phase | None = None, recipe: Recipe | None = None, **facts: str | int
) -> Failure:
    """Return the failure of a code of `FAILURES`; `facts` fill the other placeholders of its detail.

    Without a recipe, remedies assume the default one. Raises KeyError when the code or a fact is missing.
    """
    words, recipe = FAILURES[code], recipe or Recipe()
    when = f"while {phase}" if phase else "before it began"
    remedies = {remedy.__name__: remedy(recipe) for remedy in (smaller_batch, fewer_samples, less_on_disk)}
    return Failure(
        code=code,
        title=words.title,
        detail=words.detail.format(when=when, **facts),
        remedy=words.remedy.format(**remedies),
        phase=phase,
    )


def smaller_batch(recipe: Recipe) -> str:
    """Return the remedy for too much memory: a quarter of the batch size, or fewer formats if it is 1."""
    size = recipe.calibration.batch_size or DEFAULT_BATCH_SIZE
    if size == 1:
        return less_on_disk(recipe)
    return f'Set "calibration": {{"batch_size": {max(1, size // 4)}}} in the recipe'


def fewer_samples(recipe: Recipe) -> str:
    """Return the remedy for too much time: half of the samples."""
    samples = recipe.calibration.samples or DEFAULT_CALIBRATION_SAMPLES
    return f'Set "calibration": {{"samples": {max(1, samples // 2)}}} in the recipe'


def less_on_disk(recipe: Recipe) -> str:
    """Return the remedy for too much disk space: only the smallest format, or fewer samples."""
    if recipe.formats != ("safetensors",):
        return 'Set "formats": ["safetensors"] in the recipe'
    return "Upload fewer samples"
