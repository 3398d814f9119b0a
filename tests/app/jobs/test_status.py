from app.jobs.status import LIVE, MOVES, TERMINAL, JobState, sources_of


def test_the_ends_are_final() -> None:
    assert {JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED} == TERMINAL
    assert all(not MOVES[state] for state in TERMINAL)


def test_every_live_state_can_reach_an_end() -> None:
    assert all(MOVES[state] & TERMINAL for state in LIVE)


def test_every_state_has_its_moves() -> None:
    assert set(MOVES) == set(JobState)


def test_success_comes_from_work_alone() -> None:
    assert sources_of(JobState.SUCCEEDED) == {JobState.RUNNING, JobState.CANCELLING}
