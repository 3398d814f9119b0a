"""The ends of a child that did not say why itself, in words for the API's user."""

import signal

from sandbox.policy import EXIT_UNCONFINED
from worker.child.usage import Excess
from zeropoint.schema.failures import fewer_samples, less_on_disk, smaller_batch
from zeropoint.schema.job import Failure, Phase
from zeropoint.schema.recipe import Recipe


def died(exit_code: int, phase: Phase | None, recipe: Recipe) -> Failure:
    """A child that ended in a way that is not in its contract."""
    match -exit_code:
        case signal.SIGKILL:
            # Nobody else kills it so: the worker itself does only when it has stopped listening.
            return out_of_memory(f"The system killed the quantization program {_while(phase)}.", phase, recipe)
        case signal.SIGSYS:
            return _sandbox_violation(phase)
        case signal.SIGXCPU:
            return _cpu_time_limit(phase, recipe)
        case signal.SIGXFSZ:
            return disk_limit(f"The quantization program wrote too large a file {_while(phase)}.", phase, recipe)
    if exit_code == EXIT_UNCONFINED:
        return internal_error()
    return _crashed(exit_code, phase)


def took_too_much(what: Excess, phase: Phase | None, recipe: Recipe) -> Failure:
    """A child that the worker killed because it held more than a job may."""
    if what == "memory":
        return out_of_memory(f"The job held more memory than it may {_while(phase)}.", phase, recipe)
    return disk_limit(f"The job's files took more room than they may {_while(phase)}.", phase, recipe)


def took_too_long(seconds: int, phase: Phase | None, recipe: Recipe) -> Failure:
    """A child that ran longer than a job may."""
    return Failure(
        code="wall_time_limit",
        title="The job took too long",
        detail=f"It was stopped after {seconds} seconds {_while(phase)}.",
        remedy=f"{fewer_samples(recipe)}, or set a higher limits.running_seconds (at most ZEROPOINT_JOB_SECONDS).",
        phase=phase,
    )


def out_of_memory(detail: str, phase: Phase | None, recipe: Recipe) -> Failure:
    """Memory ran out, as the system or the worker saw it."""
    return Failure(
        code="out_of_memory",
        title="Memory ran out",
        detail=detail,
        remedy=f"{smaller_batch(recipe)}, or use a worker with more memory.",
        phase=phase,
    )


def disk_limit(detail: str, phase: Phase | None, recipe: Recipe) -> Failure:
    """Files grew over what a job may have."""
    return Failure(
        code="disk_limit",
        title="The job's files are too large",
        detail=detail,
        remedy=f"{less_on_disk(recipe)}, or ask the operator to raise ZEROPOINT_JOB_DISK_BYTES.",
        phase=phase,
    )


def invalid_output(phase: Phase | None) -> Failure:
    """A child that claims to be done and left something else than what it must write."""
    return Failure(
        code="invalid_output",
        title="The result can't be used",
        detail="The quantization program ended, but its files are missing or malformed.",
        remedy="Submit the job again; if it ends so again, report the job's id.",
        phase=phase,
    )


def storage_unavailable(phase: Phase | None = None) -> Failure:
    """Blobs could not be read or written."""
    return Failure(
        code="storage_unavailable",
        title="The storage was away",
        detail="The job's files could not be fetched or stored, however often it was tried.",
        remedy="Submit the job again; if it ends so again, tell the operator that the storage fails.",
        phase=phase,
    )


def storage_full(phase: Phase | None = None) -> Failure:
    """There was no room for a job's files."""
    return Failure(
        code="storage_full",
        title="The storage is full",
        detail="There was no room for the job's files, however often it was tried.",
        remedy="Ask the operator for room, or for a shorter ZEROPOINT_KEEP_JOBS_SECONDS; then submit the job again.",
        phase=phase,
    )


def blob_missing() -> Failure:
    """What was uploaded is gone from the storage, or was changed there."""
    return Failure(
        code="blob_missing",
        title="An upload is gone",
        detail="The stored bytes of the model or a dataset are missing or were changed.",
        remedy="Upload them again, submit the job with the new ids, and tell the operator.",
    )


def internal_error() -> Failure:
    """The worker's own fault."""
    return Failure(
        code="internal_error",
        title="Something went wrong here",
        detail="The worker could not carry the job through.",
        remedy="Submit the job again; if it ends so again, report the job's id.",
    )


def _crashed(exit_code: int, phase: Phase | None) -> Failure:
    how = signal.Signals(-exit_code).name if -exit_code in set(signal.Signals) else f"exit code {exit_code}"
    return Failure(
        code="crashed",
        title="The quantization program crashed",
        detail=f"It ended with {how} {_while(phase)}.",
        remedy="Check that the model runs on one sample after torch.export.load; if it does, report the job's id.",
        phase=phase,
    )


def _sandbox_violation(phase: Phase | None) -> Failure:
    return Failure(
        code="sandbox_violation",
        title="The job did what no job may",
        detail=f"The quantization program asked the system for something that it never needs {_while(phase)}.",
        remedy="Export the model anew with a torch that you trust; if it ends so again, report the job's id.",
        phase=phase,
    )


def _cpu_time_limit(phase: Phase | None, recipe: Recipe) -> Failure:
    return Failure(
        code="cpu_time_limit",
        title="The job took too much processor time",
        detail=f"The system stopped the quantization program {_while(phase)}.",
        remedy=f"{fewer_samples(recipe)}, or ask the operator to raise ZEROPOINT_JOB_SECONDS.",
        phase=phase,
    )


def _while(phase: Phase | None) -> str:
    return f"while {phase}" if phase else "before it began"
