"""The table of moves: sound in itself, and the one that the docs show."""

import re

import pytest

from app.jobs.status import HELD, LIVE, MOVES, TERMINAL, JobState
from tests.servers import ROOT

PAGE = ROOT / "docs" / "explanation" / "jobs.md"


def targets(state: JobState) -> set[JobState]:
    return {move.target for move in MOVES.values() if state in move.sources}


def test_the_ends_are_final() -> None:
    assert {JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED} == TERMINAL


def test_every_live_state_can_reach_an_end_and_every_state_is_reached() -> None:
    assert all(targets(state) & TERMINAL for state in LIVE)
    assert {move.target for move in MOVES.values()} == set(JobState)


def test_success_comes_from_held_work_alone() -> None:
    assert MOVES["succeed"].sources == HELD


def test_the_docs_show_the_same_moves() -> None:
    rows = re.findall(r"^\| (\w+) \| ([\w, ]+) \| (\w+) \| (.+) \|$", PAGE.read_text(), re.MULTILINE)
    shown = {name: (set(sources.split(", ")), target, by) for name, sources, target, by in rows if name in MOVES}
    assert shown == {name: (set(move.sources), move.target, move.by) for name, move in MOVES.items()}


@pytest.mark.parametrize("name", ["succeeded", "failed", "cancelled"])
def test_the_docs_name_the_ends(name: str) -> None:
    assert f"`{name}`" in PAGE.read_text()
