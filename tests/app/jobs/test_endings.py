"""How attempts end, on both databases: once, and with all that came of them."""

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy.orm import Session

from app.database import clock
from app.jobs import claims, endings, queries, service
from app.jobs.claims import Claim, ClaimStatus
from app.jobs.endings import MAX_ATTEMPTS, Measured, Product
from app.jobs.models import Job
from app.storage import Blob
from tests.factories import add_job, claim_one
from zeropoint.schema.job import Failure, Progress

MODEL_FILE = Product("model.safetensors", "safetensors", Blob("c" * 64, 3))
REPORT = Product("report.json", "report", Blob("d" * 64, 4))
FAILURE = Failure(code="crashed", title="It crashed", detail="It did.", remedy="Try.", phase="calibrating")
TRANSIENT = FAILURE.model_copy(update={"code": "storage_unavailable"})


@pytest.fixture
def claim(session: Session) -> Claim:
    add_job(session)
    return claim_one(session)


def history(session: Session, job_id: str) -> list[Any]:
    return [row.data.get("state") or row.data.get("phase") for row in queries.events(session, job_id, 0, 100)]


def let_pause_end(session: Session, job_id: str) -> None:
    job = session.get_one(Job, job_id, populate_existing=True)
    assert job.not_before is not None
    job.not_before = clock(session) - timedelta(seconds=1)
    session.commit()


def test_cancel_may_be_repeated_and_changes_nothing_more(session: Session, claim: Claim) -> None:
    for _ in range(2):
        assert service.request_cancel(session, claim.job_id).state == "cancelling"
    assert endings.stop(session, claim)
    assert service.request_cancel(session, claim.job_id).state == "cancelled"
    assert history(session, claim.job_id) == ["queued", "running", "cancelling", "cancelled"]


def test_a_job_that_nobody_cancelled_can_not_be_stopped(session: Session, claim: Claim) -> None:
    assert not endings.stop(session, claim)
    assert claims.claim_status(session, claim) == ClaimStatus.GO_ON


def test_success_is_recorded_with_its_artifacts_and_its_attempt(session: Session, claim: Claim) -> None:
    assert endings.succeed(session, claim, "passed", [MODEL_FILE, REPORT], Measured(17))
    job = queries.read(session, claim.job_id)
    assert (job.state, job.verdict, job.phase, job.lease_until) == ("succeeded", "passed", None, None)
    assert job.finished_at is not None
    assert [row.name for row in queries.artifacts(session, job.id)] == ["model.safetensors", "report.json"]
    assert queries.report(session, job.id).sha256 == REPORT.blob.sha256
    (attempt,) = queries.attempts(session, job.id)
    assert (attempt.worker, attempt.device, attempt.outcome, attempt.peak_memory_bytes) == (
        *("worker", "cpu"),
        *("succeeded", 17),
    )
    assert attempt.ended_at == job.finished_at


def test_a_job_s_own_death_is_final_at_once(session: Session, claim: Claim) -> None:
    assert endings.fail(session, claim, FAILURE)
    job = queries.read(session, claim.job_id)
    assert (job.state, job.verdict, job.error, job.attempts) == ("failed", None, FAILURE.model_dump(), 1)


def test_failed_validation_keeps_its_report_and_verdict(session: Session, claim: Claim) -> None:
    endings.fail(session, claim, FAILURE.model_copy(update={"code": "validation_failed"}), [REPORT])
    assert queries.read(session, claim.job_id).verdict == "failed"
    assert queries.report(session, claim.job_id).sha256 == REPORT.blob.sha256


def test_work_that_ended_before_a_cancel_arrived_is_recorded_as_it_ended(session: Session, claim: Claim) -> None:
    service.request_cancel(session, claim.job_id)
    assert endings.succeed(session, claim, "passed", [])
    assert queries.read(session, claim.job_id).state == "succeeded"


def test_an_end_is_recorded_once(session: Session, claim: Claim) -> None:
    endings.succeed(session, claim, "passed", [MODEL_FILE])
    assert not endings.fail(session, claim, FAILURE, [REPORT])
    assert not endings.succeed(session, claim, "passed", [REPORT])
    assert not endings.release(session, claim)
    assert claims.claim_status(session, claim) == ClaimStatus.LOST
    assert queries.read(session, claim.job_id).state == "succeeded"
    assert [row.name for row in queries.artifacts(session, claim.job_id)] == ["model.safetensors"]


def test_a_job_that_is_given_back_waits_again_and_has_lost_no_attempt(session: Session, claim: Claim) -> None:
    claims.report_progress(session, claim, Progress(phase="calibrating", done=3, total=4), 1.0)
    assert endings.release(session, claim)
    job = session.get_one(Job, claim.job_id, populate_existing=True)
    assert (job.state, job.attempts, job.phase, job.done, job.lease_until) == ("queued", 0, None, 0, None)
    again = claim_one(session, worker="another")
    assert (again.job_id, again.token, again.attempt) == (claim.job_id, 2, 1)
    assert claims.claim_status(session, claim) == ClaimStatus.LOST
    assert [row.outcome for row in queries.attempts(session, claim.job_id)] == ["released", None]


def test_a_job_that_is_given_back_after_a_cancel_ends(session: Session, claim: Claim) -> None:
    service.request_cancel(session, claim.job_id)
    assert endings.release(session, claim)
    assert queries.read(session, claim.job_id).state == "cancelled"


def test_lost_infrastructure_is_tried_five_times_with_growing_pauses(session: Session, claim: Claim) -> None:
    pauses = []
    for attempt in range(1, MAX_ATTEMPTS):
        assert claim.attempt == attempt
        assert endings.fail(session, claim, TRANSIENT)
        job = session.get_one(Job, claim.job_id, populate_existing=True)
        assert (job.state, job.error) == ("queued", None)
        assert job.not_before is not None
        pauses.append(round((job.not_before - clock(session)).total_seconds()))
        let_pause_end(session, job.id)
        claim = claim_one(session)
    assert pauses == [5, 10, 20, 40]
    assert sum(pauses) > 60  # one bad minute fails no job
    assert endings.fail(session, claim, TRANSIENT)
    job = queries.read(session, claim.job_id)
    assert (job.state, job.error and job.error["code"], job.attempts) == ("failed", "storage_unavailable", MAX_ATTEMPTS)


def test_lost_infrastructure_of_a_job_that_was_cancelled_ends_it(session: Session, claim: Claim) -> None:
    service.request_cancel(session, claim.job_id)
    assert endings.fail(session, claim, TRANSIENT)
    assert queries.read(session, claim.job_id).state == "cancelled"


def test_pauses_double_up_to_a_bound() -> None:
    pauses = [endings.pause_before(fruitless) for fruitless in range(endings.MOST_ATTEMPTS + 1)]
    assert pauses[:4] == [timedelta(seconds=seconds) for seconds in (5, 5, 10, 20)]
    assert pauses == sorted(pauses)
    assert pauses[-1] == endings.LONGEST_PAUSE
