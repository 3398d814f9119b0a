"""What became of jobs is counted once, whatever then becomes of the job, the worker or the process that counted."""

import random
from collections import Counter
from collections.abc import Callable
from datetime import timedelta

import pytest
from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from app.database import begin_writing, clock
from app.jobs import endings, reconciler, retention, service, tallies
from app.jobs.models import Job, Tally
from app.jobs.tallies import FINISHED, LEASES_LOST, NOTHING, PHASE_SECONDS, RETRIES, WAIT_SECONDS, Metric
from app.jobs.taxonomy import category_of
from tests.factories import add_job, claim_one
from zeropoint.schema.failures import describe_failure


def counted(session: Session, metric: Metric) -> dict[tuple[str, ...], int]:
    """What was counted under each tuple of labels, without what never was."""
    session.rollback()
    found = tallies.sums(session)[metric]
    return {labels: one.buckets.total() for labels, one in found.items() if one.buckets.total()}


def succeed(session: Session) -> str:
    assert endings.succeed(session, claim_one(session), "passed", ())
    return NOTHING


def fail(session: Session) -> str:
    assert endings.fail(session, claim_one(session), describe_failure("disk_limit"))
    return "disk_limit"


def fail_for_good(session: Session) -> str:
    claim = claim_one(session)
    session.execute(update(Job).where(Job.id == claim.job_id).values(attempts=30))
    session.commit()
    assert endings.fail(session, claim, describe_failure("storage_full"))
    return "storage_full"


def stop(session: Session) -> str:
    claim = claim_one(session)
    service.request_cancel(session, claim.job_id)
    assert endings.stop(session, claim)
    return NOTHING


def drop(session: Session) -> str:
    job = session.scalar(select(Job).where(Job.state == "queued"))
    assert job is not None
    service.request_cancel(session, job.id)
    return NOTHING


def lose_for_good(session: Session) -> str:
    claim = claim_one(session)
    lapsed = {"lease_until": clock(session) - timedelta(seconds=1), "attempts": 30}
    session.execute(update(Job).where(Job.id == claim.job_id).values(lapsed))
    session.commit()
    reconciler.recover(session)
    return "worker_lost"


def expire(session: Session) -> str:
    session.execute(update(Job).where(Job.state == "queued").values(pending_until=clock(session)))
    session.commit()
    reconciler.recover(session)
    return "no_such_worker"


ENDS: dict[str, tuple[Callable[[Session], str], str]] = {
    "succeed": (succeed, "succeeded"),
    "fail": (fail, "failed"),
    "fail_for_good": (fail_for_good, "failed"),
    "stop": (stop, "cancelled"),
    "drop": (drop, "cancelled"),
    "lose_for_good": (lose_for_good, "failed"),
    "expire": (expire, "failed"),
}
"""Every way in which a job ends, and how it is recorded."""


@pytest.mark.parametrize("end", ENDS)
def test_every_end_is_counted_once(session: Session, end: str) -> None:
    job_id = add_job(session).id
    act, outcome = ENDS[end]
    code = act(session)
    category = NOTHING if code == NOTHING else category_of(code)
    assert session.get_one(Job, job_id).state == outcome
    assert counted(session, FINISHED) == {(outcome, code, category, "cpu"): 1}


def test_counts_stay_when_jobs_are_deleted_and_rows_are_added_up(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    choice, expected = random.Random(7), Counter[str]()
    for _ in range(12):
        add_job(session)
        end = choice.choice(["succeed", "fail", "stop", "drop"])
        ENDS[end][0](session)
        expected[ENDS[end][1]] += 1
    before = {metric: counted(session, metric) for metric in tallies.METRICS.values()}
    assert Counter(dict.fromkeys(expected, 0) | _by_outcome(before[FINISHED])) == expected
    assert retention.expire_jobs(session, timedelta(seconds=-60)) == 12
    monkeypatch.setattr(tallies, "FOLD_ROWS", 1)
    reconciler.recover(session)
    assert {metric: counted(session, metric) for metric in tallies.METRICS.values()} == before
    rows = session.scalar(select(func.count()).select_from(Tally)) or 0
    assert rows == session.scalar(select(func.count()).select_from(select(*_KEY).distinct().subquery()))


_KEY = (Tally.metric, Tally.labels, Tally.bucket)


def _by_outcome(ended: dict[tuple[str, ...], int]) -> dict[str, int]:
    outcomes = Counter[str]()
    for (outcome, *_), number in ended.items():
        outcomes[outcome] += number
    return outcomes


def test_a_write_that_is_too_late_counts_nothing(session: Session) -> None:
    add_job(session)
    claim = claim_one(session)
    assert endings.succeed(session, claim, "passed", (), endings.Measured(1, {"loading": 1.0}))
    for _ in range(2):
        assert not endings.succeed(session, claim, "passed", (), endings.Measured(1, {"loading": 1.0}))
        assert not endings.release(session, claim)
    assert counted(session, FINISHED) == {("succeeded", NOTHING, NOTHING, "cpu"): 1}
    assert counted(session, PHASE_SECONDS) == {("loading", "pt2", "cpu"): 1}
    assert not counted(session, RETRIES)


def test_retries_and_lost_leases_are_counted_by_their_reason(session: Session) -> None:
    add_job(session)
    endings.release(session, claim_one(session))
    claim = claim_one(session)
    session.execute(update(Job).values(lease_until=clock(session) - timedelta(seconds=1)))
    session.commit()
    reconciler.recover(session)
    assert session.get_one(Job, claim.job_id).state == "queued"
    endings.fail(session, claim_one(session), describe_failure("storage_full"))
    assert counted(session, RETRIES) == {
        ("released", "cpu"): 1,
        ("worker_lost", "cpu"): 1,
        ("storage_full", "cpu"): 1,
    }
    assert counted(session, LEASES_LOST) == {("cpu",): 1}


def test_a_wait_begins_when_the_job_is_queued_and_again_when_a_pause_is_over(session: Session) -> None:
    job_id = add_job(session).id
    session.execute(update(Job).values(queued_at=clock(session) - timedelta(seconds=100)))
    session.commit()
    endings.fail(session, claim_one(session), describe_failure("storage_full"))
    job = session.get_one(Job, job_id)
    assert job.queued_at == job.not_before
    assert job.queued_at is not None
    assert job.queued_at > clock(session)
    (waited,) = tallies.sums(session)[WAIT_SECONDS].values()
    assert waited.total == pytest.approx(100, abs=60)


def test_a_value_is_in_the_bucket_whose_bound_it_does_not_pass(session: Session) -> None:
    begin_writing(session)
    for value in (0.0, 0.25, 0.26, 14400.0, 14401.0):
        tallies.observe(session, WAIT_SECONDS, value, "cuda")
    session.commit()
    last = len(WAIT_SECONDS.bounds)
    found = tallies.sums(session)[WAIT_SECONDS]["cuda",]
    assert found.buckets == Counter({0: 2, 1: 1, last - 1: 1, last: 1})
    assert found.total == pytest.approx(28801.51)


def test_what_another_version_counts_is_left_out_and_kept(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    begin_writing(session)
    session.add(Tally(metric="zeropoint_of_tomorrow", labels='["x"]', bucket=3, count=2, total=1.5))
    session.commit()
    assert {metric.name for metric in tallies.sums(session)} == set(tallies.METRICS)
    monkeypatch.setattr(tallies, "FOLD_ROWS", 1)
    reconciler.recover(session)
    row = session.scalars(select(Tally).where(Tally.metric == "zeropoint_of_tomorrow")).one()
    assert (row.labels, row.bucket, row.count, row.total) == ('["x"]', 3, 2, 1.5)


def test_no_label_names_a_job_an_owner_or_a_worker() -> None:
    named = {label for metric in tallies.METRICS.values() for label in metric.labels}
    assert named == {"outcome", "code", "category", "device", "reason", "phase", "format"}
