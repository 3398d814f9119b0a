"""What a worker may do with a job, on both databases: claim it in turn, hold it, report on it."""

import threading
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy.orm import Session, sessionmaker

from app.database import clock
from app.jobs import claims, endings, queries, service
from app.jobs.claims import Claim, ClaimStatus, Input
from app.jobs.models import Job
from app.jobs.submission import Submission
from app.jobs.work import QuantizeWork
from app.storage import Blob, Storage
from tests.factories import MOST, add_dataset, add_job, add_model, claim_one
from zeropoint.schema.job import Failure, Progress
from zeropoint.schema.recipe import Recipe

FAILURE = Failure(code="crashed", title="It crashed", detail="It did.", remedy="Try.", phase="calibrating")


def claimed(session: Session) -> Claim:
    add_job(session)
    return claim_one(session)


def turn(session: Session) -> str:
    """The id of the job that is claimed next."""
    return claim_one(session).job_id


def test_claim_gives_all_that_a_worker_needs(session: Session, storage: Storage, archive: Path, samples: Path) -> None:
    model = add_model(session, storage, archive)
    dataset = add_dataset(session, storage, samples.read_bytes())
    wish = Submission(
        model=model.id, work=QuantizeWork(Recipe(seed=7)), dataset=dataset.id, evaluation_dataset=dataset.id
    )
    job = service.submit(session, wish, MOST)
    blob = Input(dataset.stored_sha256, dataset.stored_bytes, dataset.sha256, dataset.bytes)
    assert claim_one(session) == Claim(
        job_id=job.id,
        token=1,
        attempt=1,
        work=QuantizeWork(Recipe(seed=7, formats=("safetensors", "pt2"))),
        device="cpu",
        running_seconds=3600,
        model=Input(model.stored_sha256, model.stored_bytes, model.sha256, model.bytes),
        model_format="pt2",
        dataset=blob,
        evaluation_dataset=blob,
        model_id=model.id,
    )


def test_a_job_is_claimed_once(sessions: sessionmaker[Session]) -> None:
    with sessions() as session:
        for _ in range(3):
            add_job(session)
    barrier = threading.Barrier(6)
    got: list[Claim | None] = []

    def claim() -> None:
        barrier.wait()
        with sessions() as session:
            got.append(claims.claim(session, "cpu", "worker", 60))

    threads = [threading.Thread(target=claim) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ids = [claim.job_id for claim in got if claim is not None]
    assert (len(got), len(ids), len(set(ids))) == (6, 3, 3)


def test_there_is_nothing_to_claim_for_another_device(session: Session) -> None:
    add_job(session)
    assert claims.claim(session, "cuda", "worker", 60) is None


def test_a_cancelled_job_is_never_claimed(session: Session) -> None:
    job = add_job(session)
    assert service.request_cancel(session, job.id).state == "cancelled"
    assert claims.claim(session, "cpu", "worker", 60) is None


def test_a_job_that_pauses_is_not_claimed_before_its_time(session: Session) -> None:
    job = add_job(session)
    job.not_before = clock(session) + timedelta(seconds=60)
    session.commit()
    assert claims.claim(session, "cpu", "worker", 60) is None
    job.not_before = clock(session) - timedelta(seconds=1)
    session.commit()
    assert turn(session) == job.id


def test_of_one_project_the_highest_priority_comes_first_then_the_oldest(session: Session) -> None:
    jobs = [add_job(session, priority=priority).id for priority in (0, 9, 0, 5)]
    assert [turn(session) for _ in jobs] == [jobs[1], jobs[3], jobs[0], jobs[2]]


def test_projects_take_turns_however_many_jobs_one_has_and_of_whatever_priority(session: Session) -> None:
    many = [add_job(session, project="many", priority=9).id for _ in range(4)]
    few = [add_job(session, project="few").id for _ in range(2)]
    order = []
    for _ in range(6):  # one slot: nothing runs when the next one is claimed
        claim = claim_one(session)
        endings.succeed(session, claim, "passed", ())
        order.append(claim.job_id)
    assert order == [many[0], few[0], many[1], few[1], many[2], many[3]]


def test_a_free_slot_goes_to_the_project_that_has_the_fewest_running(session: Session) -> None:
    first, second = (add_job(session, project="busy").id for _ in range(2))
    assert [turn(session), turn(session)] == [first, second]
    third = add_job(session, project="busy").id
    idle = add_job(session, project="idle").id
    assert [turn(session), turn(session)] == [idle, third]


def test_progress_is_written_and_a_new_phase_is_an_event(session: Session) -> None:
    claim = claimed(session)
    for done in (1, 2):
        progress = Progress(phase="calibrating", done=done, total=4)
        assert claims.report_progress(session, claim, progress, 1.5) == ClaimStatus.GO_ON
    job = queries.read(session, claim.job_id)
    assert (job.phase, job.progress) == (
        "calibrating",
        {"done": 2, "total": 4, "fraction": 0.5, "eta_seconds": 1.5},
    )
    kinds = [(row.seq, row.kind) for row in queries.events(session, job.id, 0, 100)]
    assert kinds == [(1, "state"), (2, "state"), (3, "phase")]


@pytest.mark.parametrize(("done", "total"), [(0, 0), (3, 4), (4, 4), (0, 7)])
def test_a_job_that_succeeded_is_done_whatever_was_reported_last(session: Session, done: int, total: int) -> None:
    claim = claimed(session)
    claims.report_progress(session, claim, Progress(phase="publishing", done=done, total=total), None)
    assert endings.succeed(session, claim, "passed", [])
    progress = queries.read(session, claim.job_id).progress
    assert progress == {"done": total, "total": total, "fraction": 1.0, "eta_seconds": None}


def test_a_worker_hears_of_a_cancel(session: Session) -> None:
    claim = claimed(session)
    assert claims.claim_status(session, claim) == ClaimStatus.GO_ON
    assert service.request_cancel(session, claim.job_id).state == "cancelling"
    assert claims.claim_status(session, claim) == ClaimStatus.CANCEL
    assert claims.renew(session, claim, 60) == ClaimStatus.CANCEL
    assert claims.report_progress(session, claim, Progress(phase="saving"), None) == ClaimStatus.CANCEL


def test_a_lease_is_put_off_from_now(session: Session) -> None:
    claim = claimed(session)
    assert claims.renew(session, claim, 1000) == ClaimStatus.GO_ON
    until = session.get_one(Job, claim.job_id, populate_existing=True).lease_until
    assert until is not None
    assert 990 < (until - clock(session)).total_seconds() <= 1000


def test_a_stale_token_writes_nothing(session: Session) -> None:
    claim = claimed(session)
    stale = Claim(**{**vars(claim), "token": claim.token - 1})
    before = session.get_one(Job, claim.job_id).lease_until
    assert claims.claim_status(session, stale) == ClaimStatus.LOST
    assert claims.renew(session, stale, 1000) == ClaimStatus.LOST
    assert claims.report_progress(session, stale, Progress(phase="saving"), None) == ClaimStatus.LOST
    assert claims.keep_checkpoint(session, stale, "k" * 64, "profile", Blob("c" * 64, 3)) == ClaimStatus.LOST
    assert not endings.succeed(session, stale, "passed", ())
    assert not endings.fail(session, stale, FAILURE)
    assert not endings.fail(session, stale, FAILURE.model_copy(update={"code": "storage_full"}))
    assert not endings.stop(session, stale)
    assert not endings.release(session, stale)
    job = session.get_one(Job, claim.job_id, populate_existing=True)
    assert (job.state, job.phase, job.lease_until) == ("running", None, before)
    assert [attempt.outcome for attempt in queries.attempts(session, job.id)] == [None]
    assert claims.checkpoints(session, "k" * 64) == {}


def test_checkpoints_are_kept_by_key_and_the_newest_of_a_name_stays(session: Session) -> None:
    claim = claimed(session)
    for sha256 in ("c" * 64, "d" * 64):
        claims.keep_checkpoint(session, claim, "k" * 64, "profile", Blob(sha256, 3))
    claims.keep_checkpoint(session, claim, "k" * 64, "layers-0001", Blob("e" * 64, 3))
    assert claims.checkpoints(session, "k" * 64) == {"profile": "d" * 64, "layers-0001": "e" * 64}
    assert claims.checkpoints(session, "j" * 64) == {}
