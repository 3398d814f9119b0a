"""The states of a job, the moves between them and which ones are final: declared here, once."""

from enum import StrEnum


class JobState(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    CANCELLING = "cancelling"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


_ENDS = frozenset({JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED})

MOVES: dict[JobState, frozenset[JobState]] = {
    JobState.QUEUED: frozenset({JobState.RUNNING, JobState.CANCELLED}),
    JobState.RUNNING: _ENDS | {JobState.CANCELLING},
    # Work that had already ended when the wish to stop arrived is recorded as it ended.
    JobState.CANCELLING: _ENDS,
    JobState.SUCCEEDED: frozenset(),
    JobState.FAILED: frozenset(),
    JobState.CANCELLED: frozenset(),
}

TERMINAL = frozenset(state for state, moves in MOVES.items() if not moves)
LIVE = frozenset(JobState) - TERMINAL


def sources_of(target: JobState) -> frozenset[JobState]:
    """Return the states from which a job may come to `target`."""
    return frozenset(state for state, moves in MOVES.items() if target in moves)
