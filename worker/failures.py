"""How a child that did not say why it ended is reported: exit codes and exceeded limits become failures."""

import signal

from sandbox.policy import EXIT_UNCONFINED
from worker.child.evidence import Evidence
from worker.child.usage import Excess
from zeropoint.schema.failures import describe_failure
from zeropoint.schema.job import FROM_OUTSIDE, Failure, Phase
from zeropoint.schema.recipe import Recipe

CODES = {
    EXIT_UNCONFINED: "internal_error",
    -signal.SIGSYS: "sandbox_violation",
    -signal.SIGXCPU: "cpu_time_limit",
    -signal.SIGXFSZ: "disk_limit",
}
KILLED_FOR: dict[Evidence, str] = {"memory": "out_of_memory", "processor": "cpu_time_limit"}
EXCESSES: dict[Excess, str] = {
    "memory": "out_of_memory",
    "disk": "disk_limit",
    "processes": "sandbox_violation",
    "room": "storage_full",
}


def died(
    exit_code: int, phase: Phase | None, recipe: Recipe, evidence: Evidence | None = None, attempt: int = 1
) -> Failure:
    """Return the failure of a child that ended with an exit code that is not in its contract; −n is signal n.

    `evidence`: which limit may have killed it. The worker itself kills only when it has stopped listening: without
    evidence, whoever killed it is no part of the job, and another attempt may succeed.
    """
    if -exit_code in FROM_OUTSIDE:
        if exit_code == -signal.SIGKILL and evidence:
            return describe_failure(KILLED_FOR[evidence], phase, recipe)
        return describe_failure("killed", phase, how=signal.Signals(-exit_code).name, attempt=attempt)
    if exit_code in CODES:
        return describe_failure(CODES[exit_code], phase, recipe)
    how = signal.Signals(-exit_code).name if -exit_code in set(signal.Signals) else f"exit code {exit_code}"
    return describe_failure("crashed", phase, how=how)


def took_too_much(what: Excess, phase: Phase | None, recipe: Recipe) -> Failure:
    """Return the failure of a child that the worker killed because it held more than a job may."""
    return describe_failure(EXCESSES[what], phase, recipe)


def took_too_long(seconds: int, phase: Phase | None, recipe: Recipe) -> Failure:
    """Return the failure of a child that ran longer than a job may."""
    return describe_failure("wall_time_limit", phase, recipe, seconds=seconds)
