"""Which tests run on one process, and what begins first."""

import types
from pathlib import Path

import pytest

from tests import effort
from tests.conftest import (
    DATABASE,
    QUEUE,
    GroupsAndFiles,
    marker_of,
    marker_of_test,
    pytest_xdist_make_scheduler,
    take_databases,
    take_turns,
)
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
        ("tests/reliability/test_broker_away.py::test_a", "tests/reliability/test_broker_away.py"),
        ("tests/reliability/test_broker_away.py::test_a_submit_does_not_wait_for_the_broker[a]", "timed"),
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


def test_a_test_that_looks_at_the_clock_is_found_below_other_decorators(tmp_path: Path) -> None:
    lines = ["@pytest.mark.timed", "@pytest.mark.parametrize(", '    "a", [1]', ")", "def test_a(a): ..."]
    (tmp_path / "test_file.py").write_text("\n".join([*lines, "", "", "@pytest.mark.slow", "def test_b(): ..."]))
    found = [marker_of_test(tmp_path, f"test_file.py::{test}") for test in ("test_a[1]", "test_b")]
    assert found == ["timed", "slow"]


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


def test_a_test_of_http_is_done_on_one_database_in_each_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def item(nodeid: str) -> pytest.Item:
        return types.SimpleNamespace(nodeid=nodeid)  # type: ignore[return-value]

    both = [item(f"tests/app/api/test_x.py::{test}[{one}-a]") for test in "mn" for one in ("sqlite", "postgresql")]
    others = [item("tests/app/api/test_x.py::o[sqlite]"), item("tests/app/jobs/test_x.py::p[sqlite]")]
    monkeypatch.setattr(effort, "FUZZ_EFFORT", 0.25)
    monkeypatch.setenv(effort.WHOLE_SUITE, "1")
    taken = []
    for seed in (1, 2):
        monkeypatch.setattr(effort, "FUZZ_SEED", seed)
        kept, left = take_databases([*both, *others])
        assert kept[-2:] == others
        assert {DATABASE.sub("", one.nodeid) for one in kept} == {
            DATABASE.sub("", one.nodeid) for one in [*kept, *left]
        }
        assert len({DATABASE.findall(one.nodeid)[0] for one in kept[:-2]}) == 2  # half of them on each
        taken += kept[:-2]
    assert sorted(one.nodeid for one in taken) == sorted(one.nodeid for one in both)
    monkeypatch.delenv(effort.WHOLE_SUITE)
    assert take_databases(both) == (both, [])
