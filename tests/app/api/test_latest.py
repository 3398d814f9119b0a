"""The latest value of a check: soon, whatever the check does, and never asked for twice at once."""

import threading
import time

from app.api.latest import Latest


def at(latest: "Latest[int]", seconds: float = 2.0) -> tuple[int | None, bool]:
    """Ask, and return the value and whether the newest check returned."""
    latest.begin()
    seen = latest.seen(time.monotonic() + seconds)
    return (None, False) if seen is None else (seen.value, seen.answers)


def test_a_value_is_fresh_for_a_while_and_then_looked_for_again() -> None:
    numbers = iter(range(10))
    latest = Latest(lambda: next(numbers), fresh_seconds=0.2)
    assert [at(latest), at(latest)] == [(0, True), (0, True)]
    time.sleep(0.25)
    assert at(latest) == (1, True)


def test_a_check_that_hangs_leaves_the_old_value_which_grows_older() -> None:
    go_on, calls = threading.Event(), []

    def check() -> int:
        calls.append(1)
        if len(calls) > 1:
            go_on.wait(30)
        return len(calls)

    latest = Latest(check, fresh_seconds=0.0)
    assert at(latest) == (1, True)
    began = time.monotonic()
    assert [at(latest, 0.1) for _ in range(3)] == [(1, False)] * 3
    assert time.monotonic() - began < 1
    assert calls == [1, 1]
    seen = latest.seen(time.monotonic())
    assert seen is not None
    assert seen.age_seconds >= 0.3
    go_on.set()
    seen = latest.seen(time.monotonic() + 5)
    assert seen is not None
    assert (seen.value, seen.answers) == (2, True)


def test_a_check_that_fails_leaves_the_old_value_until_it_succeeds_again() -> None:
    answers = iter([1, None, 3])

    def check() -> int:
        if (answer := next(answers)) is None:
            raise OSError("away")
        return answer

    latest = Latest(check, fresh_seconds=0.0)
    assert [at(latest) for _ in range(3)] == [(1, True), (1, False), (3, True)]


def test_before_the_first_value_there_is_none() -> None:
    def check() -> int:
        raise OSError("away")

    assert at(Latest(check)) == (None, False)
    assert Latest(check).seen(time.monotonic()) is None
