"""The words for a child that did not say why it ended."""

import signal

import pytest

from sandbox.policy import EXIT_UNCONFINED
from worker import failures
from zeropoint.schema.job import FROM_OUTSIDE, Failure
from zeropoint.schema.recipe import Recipe


@pytest.mark.parametrize(
    ("failure", "code"),
    [
        (failures.died(-signal.SIGSEGV, "calibrating", Recipe()), "crashed"),
        (failures.died(-signal.SIGKILL, "calibrating", Recipe(), "memory"), "out_of_memory"),
        (failures.died(-signal.SIGKILL, "calibrating", Recipe(), "processor"), "cpu_time_limit"),
        *((failures.died(-number, "calibrating", Recipe()), "killed") for number in FROM_OUTSIDE),
        (failures.died(-signal.SIGTERM, "calibrating", Recipe(), "memory"), "killed"),
        (failures.died(-signal.SIGSYS, "calibrating", Recipe()), "sandbox_violation"),
        (failures.died(-signal.SIGXCPU, "calibrating", Recipe()), "cpu_time_limit"),
        (failures.died(-signal.SIGXFSZ, "calibrating", Recipe()), "disk_limit"),
        (failures.took_too_much("memory", "calibrating", Recipe()), "out_of_memory"),
        (failures.took_too_much("disk", "calibrating", Recipe()), "disk_limit"),
        (failures.took_too_much("processes", "calibrating", Recipe()), "sandbox_violation"),
        (failures.took_too_much("room", "calibrating", Recipe()), "storage_full"),
        (failures.took_too_long(60, "calibrating", Recipe()), "wall_time_limit"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_failure_names_its_code_its_phase_and_a_remedy(failure: Failure, code: str) -> None:
    assert (failure.code, failure.phase) == (code, "calibrating")
    assert failure.remedy


@pytest.mark.parametrize(
    ("exit_code", "words"),
    [(-signal.SIGSEGV, "SIGSEGV"), (-signal.SIGABRT, "SIGABRT"), (2, "exit code 2"), (-200, "-200")],
)
def test_a_crash_is_told_by_signal_or_exit_code(exit_code: int, words: str) -> None:
    assert words in failures.died(exit_code, None, Recipe()).detail


def test_a_child_that_could_not_be_confined_is_the_services_own_fault() -> None:
    assert failures.died(EXIT_UNCONFINED, None, Recipe()).code == "internal_error"
