"""The clock: whose time it is, and who is told."""

import pytest

from zeropoint.entrypoints import clock as module
from zeropoint.entrypoints.clock import Clock
from zeropoint.schema.job import Progress


@pytest.fixture
def seconds(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What the time is; the last entry counts."""
    now = [0.0]
    monkeypatch.setattr(module, "monotonic", lambda: now[-1])
    return now


def test_what_comes_before_a_phases_first_step_is_that_phases(seconds: list[float]) -> None:
    clock = Clock(lambda _: None, started=0.0)
    for at, phase, done, total in [
        (1, "loading", 0, 1),
        (2, "loading", 1, 1),
        (9, "calibrating", 1, 2),
        (10, "calibrating", 2, 2),
        (15, "quantizing", 1, 1),
        (16, "validating", 0, 0),
        (20, "validating", 1, 3),
    ]:
        seconds.append(at)
        clock.report(phase, done, total)  # type: ignore[arg-type]
    seconds.append(21)
    assert clock.effort().timings == {"loading": 2, "calibrating": 8, "quantizing": 5, "validating": 6}


def test_a_phase_that_takes_another_step_after_its_last_one_has_all_its_time(seconds: list[float]) -> None:
    clock = Clock(lambda _: None, started=0.0)
    for at, done in [(3, 2), (5, 2)]:
        seconds.append(at)
        clock.report("quantizing", done, 2)
    assert clock.timings == {"loading": 3, "quantizing": 2}


def test_each_step_is_told_once() -> None:
    told: list[Progress] = []
    clock = Clock(told.append)
    clock.report("loading", 1, 1)
    clock.report("calibrating", 1, 2)
    assert [(line.phase, line.done, line.total) for line in told] == [("loading", 1, 1), ("calibrating", 1, 2)]
