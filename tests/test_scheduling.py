"""Which tests run on one process, and what begins first."""

import pytest

from tests import effort
from tests.conftest import QUEUE, GroupsAndFiles, marker_of, pytest_xdist_make_scheduler, take_turns
from tests.servers import ROOT


def scheduler(config: pytest.Config) -> GroupsAndFiles:
    made = GroupsAndFiles.__new__(GroupsAndFiles)  # as xdist makes one it needs its processes
    made.config = config
    return made


@pytest.mark.parametrize(
    ("test", "together"),
    [
        ("tests/service/test_jobs.py::test_a[x]", "service"),
        ("tests/service/test_serve.py::test_a", "tests/service/test_serve.py"),
        ("tests/reliability/test_stopped_worker.py::test_a", "tests/reliability/test_stopped_worker.py"),
        ("tests/chaos/test_chaos.py::test_a[b@c]", "chaos"),
        ("tests/worker/test_heartbeat.py::test_a", "timed"),
        ("tests/app/intake/test_fuzz.py::test_a", "tests/app/intake/test_fuzz.py"),
        ("tests/app/test_errors.py::test_a[x]", "tests/app/test_errors.py"),
    ],
)
def test_groups_and_files_stay_together(pytestconfig: pytest.Config, test: str, together: str) -> None:
    assert scheduler(pytestconfig)._split_scope(test) == together


def test_what_takes_long_begins_and_what_looks_at_the_clock_comes_last() -> None:
    files = (
        "service/test_jobs",
        "chaos/test_chaos",
        "service/test_serve",
        "app/intake/test_fuzz",
        "worker/test_heartbeat",
    )
    markers = [marker_of(ROOT / "tests" / f"{file}.py") for file in files]
    assert markers == ["service", "chaos", "own_service", "slow", "timed"]
    assert sorted(markers, key=QUEUE.index) == markers
    assert marker_of(ROOT / "tests" / "app" / "test_errors.py") == ""


def test_other_ways_to_distribute_are_left_to_xdist(
    pytestconfig: pytest.Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pytestconfig.option, "dist", "load")
    assert pytest_xdist_make_scheduler(pytestconfig, None) is None


@pytest.mark.sampled(100)
@pytest.mark.parametrize("_member", range(3))
def test_a_family_that_is_smaller_than_its_turn_is_long_has_one_member_in_each_run(
    _member: int, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(effort.WHOLE_SUITE, "1")
    monkeypatch.setattr(effort, "FUZZ_EFFORT", 0.25)
    name = request.node.nodeid.partition("[")[0]
    family = [item for item in request.session.items if item.nodeid.partition("[")[0] == name]
    kept, left = take_turns(family)
    assert len(kept) == 1
    assert len(left) == len(family) - 1
