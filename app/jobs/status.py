"""The states of a job and the moves between them: declared here, once, for the code, the docs and the tests.

Every UPDATE of a state takes its sources and its target from a move; docs/explanation/jobs.md shows the same table.
"""

from dataclasses import dataclass
from enum import StrEnum


class JobState(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    CANCELLING = "cancelling"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(frozen=True)
class Move:
    """From each of `sources` to `target`, made by `by`."""

    sources: frozenset[JobState]
    target: JobState
    by: str


_QUEUED, _RUNNING = frozenset({JobState.QUEUED}), frozenset({JobState.RUNNING})
_CANCELLING = frozenset({JobState.CANCELLING})

CLAIM = Move(_QUEUED, JobState.RUNNING, "a worker with a free slot")
DROP = Move(_QUEUED, JobState.CANCELLED, "a caller who cancels what waits")
EXPIRE = Move(_QUEUED, JobState.FAILED, "the reconciler, when the job waited too long")
RECALL = Move(_RUNNING, JobState.CANCELLING, "a caller who cancels what runs")
RETRY = Move(_RUNNING, JobState.QUEUED, "the worker that stops, or the reconciler when the lease ran out")
# Work that had already ended when the wish to stop arrived is recorded as it ended.
SUCCEED = Move(_RUNNING | _CANCELLING, JobState.SUCCEEDED, "the worker that holds the claim")
FAIL = Move(_RUNNING | _CANCELLING, JobState.FAILED, "the worker, or the reconciler when no attempt is left")
STOP = Move(_CANCELLING, JobState.CANCELLED, "the worker, or the reconciler when the lease ran out")

MOVES = {
    "claim": CLAIM,
    "drop": DROP,
    "expire": EXPIRE,
    "recall": RECALL,
    "retry": RETRY,
    "succeed": SUCCEED,
    "fail": FAIL,
    "stop": STOP,
}

TERMINAL = frozenset(JobState) - {source for move in MOVES.values() for source in move.sources}
LIVE = frozenset(JobState) - TERMINAL
HELD = frozenset({JobState.RUNNING, JobState.CANCELLING})
"""A worker holds a claim on it, with a lease."""
