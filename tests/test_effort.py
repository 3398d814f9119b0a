"""A commit's run is one that can be repeated."""

import subprocess
from itertools import pairwise
from pathlib import Path

import pytest

from tests import effort


def git(folder: Path, *arguments: str) -> None:
    about = ["-c", "user.name=a", "-c", "user.email=a@example.com", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", *about, *arguments], cwd=folder, check=True, capture_output=True)


def test_each_commit_has_a_seed_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(effort, "ROOT", tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    seeds = [effort.commit_seed()]
    git(tmp_path, "init")
    for message in ("first", "second"):
        git(tmp_path, "commit", "--allow-empty", "--message", message)
        seeds += [effort.commit_seed(), effort.commit_seed()]
    none, first, first_again, second, second_again = seeds
    assert (none, first, second) == (1, first_again, second_again)
    assert len({none, first, second}) == 3


def test_a_seed_of_a_log_is_searched_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHAOS_SEED", "7")
    assert effort.seed_of("CHAOS_SEED") == 7
    monkeypatch.setenv("CHAOS_SEED", "")
    assert effort.seed_of("CHAOS_SEED") == effort.commit_seed()


def test_a_run_of_all_takes_one_of_each_in_a_row_and_a_part_takes_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(effort, "FUZZ_EFFORT", 0.25)
    monkeypatch.delenv(effort.WHOLE_SUITE, raising=False)
    assert all(effort.in_turn(3, position) for position in range(9))
    monkeypatch.setenv(effort.WHOLE_SUITE, "1")
    taken = [position for position in range(9) if effort.in_turn(3, position)]
    assert len(taken) == 3
    assert {second - first for first, second in pairwise(taken)} == {3}
    monkeypatch.setattr(effort, "FUZZ_SEED", effort.FUZZ_SEED + 1)
    assert taken != [position for position in range(9) if effort.in_turn(3, position)]
    monkeypatch.setattr(effort, "FUZZ_EFFORT", 1)
    assert all(effort.in_turn(3, position) for position in range(9))
