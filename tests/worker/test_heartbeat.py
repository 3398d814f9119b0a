"""The pulse of a claim, with a real database."""

import time
from functools import partial

import pytest
from sqlalchemy.orm import Session, sessionmaker

from app.database import begin_writing
from app.jobs import claims, repository, service
from app.jobs.claims import Claim, ClaimStatus
from app.jobs.models import Job
from tests.factories import add_job, claim_one
from tests.servers import wait_until
from worker.heartbeat import Heartbeat
from zeropoint.schema.job import Progress

LEASE_SECONDS = 3.0

pytestmark = pytest.mark.timed


@pytest.fixture
def claim(session: Session) -> Claim:
    add_job(session)
    return claim_one(session)


def row(session: Session, claim: Claim) -> Job:
    session.rollback()
    return session.get_one(Job, claim.job_id, populate_existing=True)


def test_it_renews_the_lease_again_and_again(claim: Claim, session: Session, sessions: sessionmaker[Session]) -> None:
    with Heartbeat(sessions, claim, LEASE_SECONDS) as heartbeat:
        ends = set()
        began = time.monotonic()
        while time.monotonic() - began < 2 * LEASE_SECONDS:
            ends.add(row(session, claim).lease_until)
            assert heartbeat.claim_status is ClaimStatus.GO_ON
            time.sleep(0.05)
    assert len(ends) >= 4


def test_it_hears_of_a_cancel_and_of_a_loss(claim: Claim, session: Session, sessions: sessionmaker[Session]) -> None:
    with Heartbeat(sessions, claim, 60) as heartbeat:
        service.request_cancel(session, claim.job_id)
        wait_until(lambda: heartbeat.claim_status is ClaimStatus.CANCEL, seconds=20)
        row(session, claim).token += 1
        session.commit()
        wait_until(lambda: heartbeat.claim_status is ClaimStatus.LOST, seconds=20)


def test_reports_are_written_in_order(claim: Claim, session: Session, sessions: sessionmaker[Session]) -> None:
    with Heartbeat(sessions, claim, 60) as heartbeat:
        for done in range(5):
            progress = Progress(phase="calibrating", done=done, total=5)
            heartbeat.report(partial(claims.report_progress, claim=claim, progress=progress, eta_seconds=None))
        heartbeat.flush(30)
        assert (row(session, claim).phase, row(session, claim).done) == ("calibrating", 4)


def test_by_its_own_clock_the_claim_is_lost_before_the_lease_ends(
    claim: Claim, sessions: sessionmaker[Session]
) -> None:
    with sessions() as holder, Heartbeat(sessions, claim, LEASE_SECONDS) as heartbeat:
        hang(holder, claim)
        wait_until(lambda: heartbeat.claim_status is ClaimStatus.LOST, seconds=LEASE_SECONDS)
        holder.rollback()


def test_reports_made_while_the_database_hangs_are_written_when_it_answers(
    claim: Claim, session: Session, sessions: sessionmaker[Session]
) -> None:
    progress = Progress(phase="saving", done=1, total=2)
    with sessions() as holder, Heartbeat(sessions, claim, 60) as heartbeat:
        hang(holder, claim)
        heartbeat.report(partial(claims.report_progress, claim=claim, progress=progress, eta_seconds=None))
        heartbeat.flush(1)
        assert row(session, claim).phase is None
        holder.rollback()
        heartbeat.flush(30)
    assert row(session, claim).phase == "saving"


def hang(holder: Session, claim: Claim) -> None:
    """From now on nobody else can write to the job's row: they wait."""
    begin_writing(holder)
    assert repository.lock(holder, claim.job_id)
