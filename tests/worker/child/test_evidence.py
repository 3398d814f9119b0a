"""What speaks for a limit, and what does not."""

import os
from collections.abc import Iterator
from itertools import chain, repeat
from pathlib import Path

import pytest

from worker.child.evidence import RECENT_SECONDS, KillWatch, is_short_of_memory, oom_kills

GIB = 1 << 30


def watch(
    kills: Iterator[int] | None = None, *, short: bool = False, clock: Iterator[float] | None = None
) -> KillWatch:
    kills, clock = kills or repeat(7), clock or repeat(0.0)
    return KillWatch(os.getpid(), 1e9, lambda: next(clock), lambda: next(kills), lambda: short)


def test_a_kill_alone_is_no_evidence() -> None:
    quiet = watch()
    quiet.look()
    assert quiet.evidence(GIB, 16 * GIB) is None


def test_a_peak_near_the_limit_is() -> None:
    assert watch().evidence(15 * GIB, 16 * GIB) == "memory"


@pytest.mark.parametrize("seen_at", [1, 3], ids=["while it ran", "after its end"])
def test_a_victim_more_is(seen_at: int) -> None:
    kills = watch(chain(repeat(7, seen_at), repeat(8)))
    kills.look()
    kills.look()
    assert kills.evidence(GIB, 16 * GIB) == "memory"


def test_a_victim_long_ago_is_another_jobs() -> None:
    kills = watch(chain([7], repeat(8)), clock=chain([0.0], repeat(2 * RECENT_SECONDS)))
    kills.look()
    assert kills.evidence(GIB, 16 * GIB) is None


def test_a_machine_without_memory_is() -> None:
    assert watch(short=True).evidence(GIB, 16 * GIB) == "memory"


def test_processor_time_that_is_used_up_is() -> None:
    kills = KillWatch(os.getpid(), 0.01, kills=lambda: 0, short=lambda: False)
    assert kills.evidence(GIB, 16 * GIB) == "processor"


@pytest.mark.parametrize(("available", "short"), [(900, False), (60, False), (40, True), (0, True)])
def test_memory_is_short_when_hardly_any_is_available(available: int, short: bool, tmp_path: Path) -> None:
    facts = tmp_path / "meminfo"
    facts.write_text(f"MemTotal: 1000 kB\nMemFree: 1 kB\nMemAvailable: {available} kB\n")
    assert is_short_of_memory(facts) is short


def test_this_machine_says_how_many_were_killed_and_has_memory(tmp_path: Path) -> None:
    assert oom_kills() >= 0
    assert oom_kills(tmp_path) >= 0  # without control groups
    assert not is_short_of_memory(tmp_path / "none")


def test_the_own_control_group_counts_before_the_machine(tmp_path: Path) -> None:
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        group = tmp_path / ("memory" if controllers else "") / path.lstrip("/")
        group.mkdir(parents=True, exist_ok=True)
        (group / ("memory.oom_control" if controllers else "memory.events")).write_text(
            "low 0\noom 9\noom_kill 12345\n"
        )
    assert oom_kills(tmp_path) == 12345
