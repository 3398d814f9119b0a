"""What the worker believes of the child's lines, and how often it passes them on."""

import json

import pytest

from worker.child.progress import CHILD_PHASES, INTERVAL_SECONDS, PhaseTime, ProgressWatch, Reading, parse
from zeropoint.schema.job import Progress


class Clock:
    """A clock that stands still until it is told the time."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def line(phase: str, done: int = 0, total: int = 0) -> bytes:
    return json.dumps({"phase": phase, "done": done, "total": total}).encode()


@pytest.mark.parametrize(
    "nonsense",
    [
        b"",
        b"hello",
        b"[]",
        b"\xff\xfe",
        b'{"phase": "dancing", "done": 0, "total": 0}',
        b'{"phase": "loading", "done": -1, "total": 1}',
        b'{"phase": "loading", "done": "1", "total": 1}',
        b'{"phase": "loading", "done": 2, "total": 1}',
        b'{"phase": "loading", "done": 0, "total": 2147483648}',
        b'{"phase": "loading", "done": 9999999999999999999999, "total": 0}',
        b'{"phase": "loading", "done": 0, "total": 0, "more": 1}',
        b'{"phase": "publishing", "done": 0, "total": 0}',
    ],
    ids=lambda value: value.decode(errors="replace")[:40] or "empty",
)
def test_a_line_that_is_no_honest_progress_is_ignored(nonsense: bytes) -> None:
    assert parse(nonsense) is None


def test_an_honest_line_is_read() -> None:
    assert parse(line("calibrating", 3, 8)) == Progress(phase="calibrating", done=3, total=8)


def test_every_new_phase_is_recorded_at_once() -> None:
    watch = ProgressWatch(Clock())
    for phase in CHILD_PHASES:
        watch.feed(line(phase))
    assert [reading.progress.phase for reading in watch.due()] == list(CHILD_PHASES)


def test_steps_within_a_phase_are_recorded_at_intervals_only() -> None:
    clock = Clock()
    watch = ProgressWatch(clock)
    writes = 0
    for done in range(1001):  # ten seconds, a hundred lines a second
        watch.feed(line("calibrating", done, 1000))
        writes += len(watch.due())
        clock.now += 0.01
    assert 19 <= writes <= 21


def test_the_last_step_is_recorded_when_the_child_falls_silent() -> None:
    clock = Clock()
    watch = ProgressWatch(clock)
    watch.feed(line("calibrating", 0, 8))
    watch.due()
    watch.feed(line("calibrating", 8, 8))
    assert watch.due() == []
    clock.now += INTERVAL_SECONDS
    assert [reading.progress.done for reading in watch.due()] == [8]


def test_a_phase_that_is_over_does_not_come_back() -> None:
    watch = ProgressWatch(Clock())
    for _ in range(100):
        watch.feed(line("saving"))
        watch.feed(line("loading"))
    assert len(watch.due()) <= 2
    assert watch.phase == "saving"


def test_eta_follows_the_rate_of_the_phase() -> None:
    clock = Clock()
    watch = ProgressWatch(clock)
    watch.feed(line("loading"))
    clock.now += 60
    watch.feed(line("calibrating", 0, 10))
    watch.due()
    clock.now += 4
    watch.feed(line("calibrating", 2, 10))
    assert watch.due() == [Reading(Progress(phase="calibrating", done=2, total=10), eta_seconds=16.0)]


def test_there_is_no_eta_where_the_total_is_unknown() -> None:
    clock = Clock()
    watch = ProgressWatch(clock)
    watch.feed(line("validating", 0))
    watch.due()
    clock.now += 4
    watch.feed(line("validating", 2))
    assert [reading.eta_seconds for reading in watch.due()] == [None]


def test_each_phase_has_its_time_and_the_last_one_ends_with_the_child() -> None:
    clock = Clock()
    watch = ProgressWatch(clock)
    assert watch.times(ended=True) == ()
    began = clock.now
    for phase, seconds in (("loading", 3.0), ("calibrating", 60.0), ("saving", 0.5)):
        watch.feed(line(phase))
        clock.now += seconds / 2
        watch.feed(line(phase, 1))
        watch.feed(line("loading"))  # goes back: ignored
        clock.now += seconds / 2
    closed = (PhaseTime("loading", began, 3.0), PhaseTime("calibrating", began + 3, 60.0))
    for ended in (False, True):
        assert watch.times(ended=ended) == (*closed, PhaseTime("saving", began + 63, 0.5, ended))
