"""The ends of a child that did not say why itself, in words for the API's user."""

import signal

from quantization.folder import Failure, Phase
from worker.sandbox import EXIT_UNCONFINED
from worker.usage import Excess


def died(exit_code: int, phase: Phase | None) -> Failure:
    """A child that ended in a way that is not in its contract."""
    match -exit_code:
        case signal.SIGKILL:
            # Nobody else kills it so: the worker itself does only when it has stopped listening.
            return out_of_memory(f"The system killed the quantization program {_while(phase)}.", phase)
        case signal.SIGSYS:
            return _sandbox_violation(phase)
        case signal.SIGXCPU:
            return _cpu_time_limit(phase)
        case signal.SIGXFSZ:
            return disk_limit(f"The quantization program wrote too large a file {_while(phase)}.", phase)
    if exit_code == EXIT_UNCONFINED:
        return internal_error()
    return _crashed(exit_code, phase)


def took_too_much(what: Excess, phase: Phase | None) -> Failure:
    """A child that the worker killed because it held more than a job may."""
    if what == "memory":
        return out_of_memory(f"The job held more memory than it may {_while(phase)}.", phase)
    return disk_limit(f"The job's files took more room than they may {_while(phase)}.", phase)


def took_too_long(seconds: int, phase: Phase | None) -> Failure:
    """A child that ran longer than a job may."""
    return Failure(
        code="wall_time_limit",
        title="The job took too long",
        detail=f"It was stopped after {seconds} seconds {_while(phase)}.",
        remedy="Use fewer calibration samples, or ask the operator to raise ZEROPOINT_JOB_SECONDS.",
        phase=phase,
    )


def out_of_memory(detail: str, phase: Phase | None) -> Failure:
    """Memory ran out, as the system or the worker saw it."""
    return Failure(
        code="out_of_memory",
        title="Memory ran out",
        detail=detail,
        remedy='Set "calibration": {"batch_size": 8} in the recipe, use fewer samples, or a worker with more memory.',
        phase=phase,
    )


def disk_limit(detail: str, phase: Phase | None) -> Failure:
    """Files grew over what a job may have."""
    return Failure(
        code="disk_limit",
        title="The job's files are too large",
        detail=detail,
        remedy="Use fewer samples or a smaller batch, or ask the operator to raise ZEROPOINT_JOB_DISK_BYTES.",
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


def worker_stopped() -> Failure:
    """The worker was told to stop while it worked on the job."""
    return Failure(
        code="worker_stopped",
        title="The worker was stopped",
        detail="The worker was shut down before the job was done.",
        remedy="Submit the job again.",
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


def _cpu_time_limit(phase: Phase | None) -> Failure:
    return Failure(
        code="cpu_time_limit",
        title="The job took too much processor time",
        detail=f"The system stopped the quantization program {_while(phase)}.",
        remedy="Use fewer calibration samples, or ask the operator to raise ZEROPOINT_JOB_SECONDS.",
        phase=phase,
    )


def _while(phase: Phase | None) -> str:
    return f"while {phase}" if phase else "before it began"
