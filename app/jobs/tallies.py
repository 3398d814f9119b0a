"""What became of jobs, counted in rows: by the transaction that records it, so once and for all that end.

A counter of a process would start again with it, a deleted job would be gone from a count of rows, and a pool process
that dies takes what it counted with it. Each count here is a row of its own, so nobody waits for another's; the
reconciler adds them up now and then. No label names a job, a project or a worker.
"""

import json
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from app.jobs.models import Tally
from app.jobs.status import TERMINAL, JobState
from app.jobs.taxonomy import CLASSES, FailureClass, category_of

NOTHING = "none"
"""The code and category of what did not fail."""
RELEASED = "released"
"""Why a job is back in the queue whose worker was stopped."""
RETRIED = (RELEASED, *(code for code, category in CLASSES.items() if category is FailureClass.TRANSIENT))
DEVICES = ("cpu", "cuda")
FOLD_ROWS = 2000
"""So many rows are added up. There are a few hundred different ones."""

SECONDS = (0.25, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 14400.0)
BYTES = tuple(float(2**power) for power in range(28, 38))


@dataclass(frozen=True)
class Metric:
    """A counter, or with `bounds` a histogram: its name, what it counts, and the names of its labels."""

    name: str
    words: str
    labels: tuple[str, ...]
    bounds: tuple[float, ...] = ()


FINISHED = Metric(
    "zeropoint_jobs_finished",
    "Jobs that ended, by outcome, code and category of the failure, and device.",
    ("outcome", "code", "category", "device"),
)
RETRIES = Metric(
    "zeropoint_job_retries", "Attempts that ended with the job back in the queue, by why.", ("reason", "device")
)
LEASES_LOST = Metric("zeropoint_leases_lost", "Leases that ran out: the worker was gone.", ("device",))
WAIT_SECONDS = Metric(
    "zeropoint_job_wait_seconds", "Seconds from queued to claimed, of each attempt.", ("device",), SECONDS
)
PHASE_SECONDS = Metric(
    "zeropoint_job_phase_seconds",
    "Seconds of each phase that an attempt finished, by form of the model and device.",
    ("phase", "format", "device"),
    SECONDS,
)
PEAK_BYTES = Metric(
    "zeropoint_job_peak_memory_bytes", "Most memory that an attempt held, as its worker saw.", ("device",), BYTES
)
METRICS = {metric.name: metric for metric in (FINISHED, RETRIES, LEASES_LOST, WAIT_SECONDS, PHASE_SECONDS, PEAK_BYTES)}


@dataclass
class Sum:
    """What was counted under some labels: of a histogram, how many in each bucket, and the sum of what was observed."""

    buckets: Counter[int]
    total: float = 0.0


Sums = Mapping[Metric, Mapping[tuple[str, ...], Sum]]


def count(session: Session, metric: Metric, *labels: str) -> None:
    """Count one, within the caller's transaction."""
    session.add(Tally(metric=metric.name, labels=json.dumps(labels), bucket=0, count=1, total=0.0))


def observe(session: Session, metric: Metric, value: float, *labels: str) -> None:
    """Add a value to a histogram, within the caller's transaction."""
    bucket = bisect_left(metric.bounds, value)
    session.add(Tally(metric=metric.name, labels=json.dumps(labels), bucket=bucket, count=1, total=value))


def count_end(session: Session, state: JobState, code: str | None, device: str) -> None:
    """Count a job that ended, within the caller's transaction."""
    count(session, FINISHED, state, code or NOTHING, category_of(code) if code else NOTHING, device)


def observe_attempt(
    session: Session, seconds: Mapping[str, float], peak_memory_bytes: int | None, model_format: str, device: str
) -> None:
    """Add what was measured of an attempt, within the caller's transaction: the seconds of its phases, its memory."""
    for phase, value in seconds.items():
        observe(session, PHASE_SECONDS, value, phase, model_format, device)
    if peak_memory_bytes is not None:
        observe(session, PEAK_BYTES, peak_memory_bytes, device)


def sums(session: Session) -> Sums:
    """Return all that was counted, and 0 for each end of a job that there may be."""
    added = select(Tally.metric, Tally.labels, Tally.bucket, func.sum(Tally.count), func.sum(Tally.total))
    found: dict[Metric, dict[tuple[str, ...], Sum]] = {metric: {} for metric in METRICS.values()}
    found[FINISHED] = {labels: Sum(Counter()) for labels in _ends()}
    found[RETRIES] = {(reason, device): Sum(Counter()) for reason in RETRIED for device in DEVICES}
    found[LEASES_LOST] = {(device,): Sum(Counter()) for device in DEVICES}
    for name, labels, bucket, number, total in session.execute(
        added.group_by(Tally.metric, Tally.labels, Tally.bucket)
    ):
        if metric := METRICS.get(name):  # another version may count more
            one = found[metric].setdefault(tuple(json.loads(labels)), Sum(Counter()))
            one.buckets[bucket] += int(number)
            one.total += float(total)
    return found


def fold(session: Session) -> None:
    """Add up what was counted if there is much, within the caller's transaction. One process does so at a time."""
    if (session.scalar(select(func.count()).select_from(Tally)) or 0) < FOLD_ROWS:
        return
    counts: Counter[tuple[str, str, int]] = Counter()
    totals: defaultdict[tuple[str, str, int], float] = defaultdict(float)
    taken = delete(Tally).returning(Tally.metric, Tally.labels, Tally.bucket, Tally.count, Tally.total)
    for metric, labels, bucket, number, total in session.execute(taken):
        counts[metric, labels, bucket] += number
        totals[metric, labels, bucket] += total
    for (metric, labels, bucket), number in counts.items():
        total = totals[metric, labels, bucket]
        session.add(Tally(metric=metric, labels=labels, bucket=bucket, count=number, total=total))


def _ends() -> Iterator[tuple[str, ...]]:
    for device in DEVICES:
        for state in TERMINAL - {JobState.FAILED}:
            yield state, NOTHING, NOTHING, device
        for code, category in CLASSES.items():
            yield JobState.FAILED, code, category, device
