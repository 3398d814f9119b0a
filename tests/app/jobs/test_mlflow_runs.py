"""Rows of what MLflow has to hear: written with claims and ends, claimed by one process at a time."""

from collections.abc import Sequence
from datetime import timedelta

import pytest
from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session, sessionmaker

from app.accounts.caller import called_by
from app.database import clock
from app.jobs import claims, endings, mlflow_runs, reconciler, service
from app.jobs.models import Job, MlflowRun
from app.settings import Settings
from tests.factories import add_job, claim_one, member_of
from zeropoint.schema.job import Phase, Progress

LEASE = timedelta(seconds=60)
PHASES: tuple[Phase, ...] = ("loading", "calibrating")


@pytest.fixture
def settings(settings: Settings, request: pytest.FixtureRequest) -> Settings:
    uri = None if "silent" in request.node.name else "http://127.0.0.1:1"
    return settings.model_copy(update={"mlflow_tracking_uri": uri})


def rows(session: Session) -> Sequence[MlflowRun]:
    session.rollback()
    return session.scalars(select(MlflowRun), execution_options={"populate_existing": True}).all()


def let_time_pass(session: Session) -> None:
    session.execute(update(MlflowRun).values(due_at=clock(session) - timedelta(seconds=1)))
    session.commit()


def test_silent_without_a_server(session: Session) -> None:
    add_job(session)
    endings.succeed(session, claim_one(session), "passed", ())
    assert rows(session) == []


def test_what_waits_in_the_queue_is_not_due(session: Session) -> None:
    add_job(session)
    assert rows(session) == []
    assert mlflow_runs.claim(session, LEASE) is None


def test_every_end_is_noted_whoever_brings_it(session: Session) -> None:
    ways = {"succeeded": add_job(session), "cancelled": add_job(session), "failed": add_job(session)}
    endings.succeed(session, claim_one(session), "passed", ())
    with called_by(member_of("default")):
        service.request_cancel(session, ways["cancelled"].id)
    session.execute(
        update(Job).where(Job.id == ways["failed"].id).values(pending_until=clock(session) - timedelta(seconds=1))
    )
    session.commit()
    reconciler.recover(session)
    assert {row.job_id: row.state for row in rows(session)} == {job.id: state for state, job in ways.items()}


def test_a_row_is_due_at_the_claim_and_at_the_end_and_not_between(session: Session) -> None:
    add_job(session)
    claim = claim_one(session)
    opening = mlflow_runs.claim(session, LEASE)
    assert opening is not None
    assert not opening.has_ended
    mlflow_runs.record_opened(session, opening)
    assert mlflow_runs.claim(session, LEASE) is None
    assert mlflow_runs.waiting(session).jobs == 0
    endings.succeed(session, claim, "passed", ())
    assert mlflow_runs.waiting(session).jobs == 1
    closing = mlflow_runs.claim(session, LEASE)
    assert closing is not None
    assert closing.has_ended
    mlflow_runs.record_closed(session, closing)
    assert rows(session) == []


def test_one_process_at_a_time_has_a_row_also_when_the_job_ends_meanwhile(
    session: Session, sessions: sessionmaker[Session]
) -> None:
    add_job(session)
    claim = claim_one(session)
    first = mlflow_runs.claim(session, LEASE)
    assert first is not None
    endings.succeed(session, claim, "passed", ())
    with sessions() as other:
        assert mlflow_runs.claim(other, LEASE) is None
        let_time_pass(other)  # the lease ends
        second = mlflow_runs.claim(other, LEASE)
        assert second is not None
        mlflow_runs.record_opened(session, first)  # too late
        assert [row.opened for row in rows(session)] == [False]
        assert mlflow_runs.record_failed(session, first, "late")
        mlflow_runs.record_closed(session, first)
        assert [row.last_error for row in rows(session)] == [None]
        mlflow_runs.record_closed(other, second)
    assert rows(session) == []


@pytest.mark.parametrize(("hours", "kept"), [(0, True), (23, True), (25, False)])
def test_what_failed_is_kept_for_a_day_after_the_end(hours: int, kept: bool, session: Session) -> None:
    add_job(session)
    endings.succeed(session, claim_one(session), "passed", ())
    session.execute(update(Job).values(finished_at=clock(session) - timedelta(hours=hours)))
    session.commit()
    due = mlflow_runs.claim(session, LEASE)
    assert due is not None
    assert mlflow_runs.waiting(session).oldest_seconds == pytest.approx(hours * 3600, abs=60)
    assert mlflow_runs.record_failed(session, due, "x" * 1000) is kept
    assert len(rows(session)) == kept
    if kept:
        pause = rows(session)[0].due_at - clock(session)
        assert mlflow_runs.FIRST_PAUSE / 2 < pause <= mlflow_runs.LONGEST_PAUSE
        mlflow_runs.make_due(session)
        assert mlflow_runs.claim(session, LEASE) is not None


def test_a_job_that_runs_for_days_is_not_given_up(session: Session) -> None:
    add_job(session)
    claim_one(session)
    session.execute(update(MlflowRun).values(noted_at=clock(session) - timedelta(days=3)))
    session.commit()
    due = mlflow_runs.claim(session, LEASE)
    assert due is not None
    assert mlflow_runs.record_failed(session, due, "away")


@pytest.mark.parametrize("ended", [True, False])
def test_a_deleted_job_is_to_be_closed(ended: bool, session: Session) -> None:
    """As its row last said; where an older version of the service ended it without a word, it was cut off."""
    job = add_job(session)
    claim = claim_one(session)
    if ended:
        endings.succeed(session, claim, "passed", ())
    session.execute(delete(Job).where(Job.id == job.id))
    session.commit()
    due = mlflow_runs.claim(session, LEASE)
    assert due is not None
    assert (due.facts, due.has_ended, due.state) == (None, True, "succeeded" if ended else "running")


def test_seconds_are_those_of_the_last_attempt(session: Session) -> None:
    add_job(session)
    first = claim_one(session)
    claims.report_progress(session, first, Progress(phase="saving", done=0, total=1), None)
    endings.release(session, first)
    second = claim_one(session)
    for phase in PHASES:
        claims.report_progress(session, second, Progress(phase=phase, done=0, total=1), None)
    endings.succeed(session, second, "passed", ())
    due = mlflow_runs.claim(session, LEASE)
    assert due is not None
    assert due.facts is not None
    assert due.facts.seconds.keys() == {*PHASES, "total"}
    assert sum(due.facts.seconds[phase] for phase in PHASES) < due.facts.seconds["total"]
