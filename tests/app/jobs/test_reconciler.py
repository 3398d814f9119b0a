"""What is found again when nobody holds it, on both databases, with a real Redis."""

import threading
from collections.abc import Iterator
from datetime import timedelta

import pytest
from celery import Celery
from sqlalchemy.orm import Session, sessionmaker

from app.database import begin_writing, clock, try_lock
from app.jobs import claims, endings, queries, reconciler, service, workers
from app.jobs.endings import MAX_ATTEMPTS
from app.jobs.models import Checkpoint, Job, Worker
from app.jobs.queue import create_celery
from app.settings import Settings
from tests.app.jobs.test_queue import waiting
from tests.factories import add_job, claim_one
from tests.servers import free_port, wait_until


@pytest.fixture
def celery(settings: Settings) -> Iterator[Celery]:
    celery = create_celery(settings)
    yield celery
    celery.close()


def let_time_pass(session: Session, job_id: str, seconds: float = 1) -> None:
    """The lease and the waiting time of a job ran out that long ago."""
    job = session.get_one(Job, job_id, populate_existing=True)
    past = clock(session) - timedelta(seconds=seconds)
    job.lease_until = job.lease_until and past
    job.pending_until = past
    job.not_before = None
    session.commit()


def recovered(session: Session, job_id: str) -> Job:
    reconciler.recover(session)
    session.rollback()
    return session.get_one(Job, job_id, populate_existing=True)


def test_a_lease_that_holds_is_left_alone(session: Session) -> None:
    job = add_job(session)
    claim_one(session)
    assert recovered(session, job.id).state == "running"


def test_a_lease_that_ran_out_gives_the_job_to_another_worker(session: Session) -> None:
    job = add_job(session)
    claim = claim_one(session, worker="gone")
    let_time_pass(session, job.id)
    found = recovered(session, job.id)
    assert (found.state, found.attempts, found.worker) == ("queued", 1, None)
    again = claim_one(session, worker="next")
    assert (again.token, again.attempt) == (2, 2)
    assert not endings.succeed(session, claim, "passed", ())
    assert endings.succeed(session, again, "passed", ())
    assert [row.outcome for row in queries.attempts(session, job.id)] == ["worker_lost", "succeeded"]
    (event,) = [row for row in queries.events(session, job.id, 0, 100) if "because" in row.data]
    assert event.data == {"state": "queued", "because": "worker_lost"}


def test_a_job_that_loses_many_workers_in_a_row_fails(session: Session) -> None:
    job = add_job(session)
    for _ in range(MAX_ATTEMPTS):
        claim_one(session)
        let_time_pass(session, job.id)
        found = recovered(session, job.id)
    assert found.state == "failed"
    assert found.error is not None
    assert found.error["code"] == "worker_lost"
    assert f"{MAX_ATTEMPTS} workers" in found.error["detail"]


def test_a_cancelled_job_that_loses_its_worker_is_cancelled(session: Session) -> None:
    job = add_job(session)
    claim_one(session)
    service.request_cancel(session, job.id)
    let_time_pass(session, job.id)
    assert recovered(session, job.id).state == "cancelled"


@pytest.mark.parametrize(("live", "code"), [(["cpu"], "pending_time_limit"), ([], "no_such_worker")])
def test_a_job_that_waits_too_long_fails_and_says_for_what(session: Session, live: list[str], code: str) -> None:
    for device in live:
        workers.announce_worker(session, device, device, {})
    job = add_job(session, pending_seconds=30)
    assert recovered(session, job.id).state == "queued"
    let_time_pass(session, job.id)
    found = recovered(session, job.id)
    assert found.state == "failed"
    assert found.error is not None
    assert found.error["code"] == code
    assert "30 seconds" in found.error["detail"]


def test_a_job_that_runs_anywhere_leaves_a_device_that_is_gone(session: Session) -> None:
    workers.announce_worker(session, "gpu", "cuda", {})
    anywhere, there = add_job(session), add_job(session, device="cuda")
    assert (anywhere.device, there.device) == ("cuda", "cuda")
    session.delete(session.get_one(Worker, "gpu"))
    session.commit()
    assert recovered(session, anywhere.id).device == "cuda"  # nobody lives: it may as well wait there
    workers.announce_worker(session, "cpu", "cpu", {})
    assert recovered(session, anywhere.id).device == "cpu"
    assert recovered(session, there.id).device == "cuda"


@pytest.mark.parametrize(
    "database_url", ["postgresql"], indirect=True
)  # SQLite has one lock, and whoever writes has it
def test_one_process_at_a_time_recovers(sessions: sessionmaker[Session]) -> None:
    with sessions() as session, sessions() as holder:
        job = add_job(session)
        claim_one(session)
        let_time_pass(session, job.id)
        begin_writing(holder)
        assert try_lock(holder, reconciler.LOCK)
        assert recovered(session, job.id).state == "running"
        holder.rollback()
        assert recovered(session, job.id).state == "queued"


def test_recovering_at_the_same_time_takes_a_job_back_once(sessions: sessionmaker[Session]) -> None:
    with sessions() as session:
        job = add_job(session)
        claim_one(session)
        let_time_pass(session, job.id)
    barrier = threading.Barrier(4)

    def recover() -> None:
        barrier.wait()
        with sessions() as session:
            reconciler.recover(session)

    threads = [threading.Thread(target=recover) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with sessions() as session:
        events = [row.data["state"] for row in queries.events(session, job.id, 0, 100)]
    assert events == ["queued", "running", "queued"]


def test_every_waiting_job_gets_a_hint_and_one_alone(session: Session, settings: Settings, celery: Celery) -> None:
    for _ in range(3):
        add_job(session)
    for _ in range(2):
        reconciler.look(settings, celery)
    assert waiting(celery, "cpu") == 3


def test_hints_that_were_lost_are_sent_again(session: Session, settings: Settings, celery: Celery) -> None:
    add_job(session)
    reconciler.look(settings, celery)
    with celery.connection_for_write() as connection:
        celery.amqp.queues["cpu"](connection.default_channel).purge()
    assert waiting(celery, "cpu") == 0
    reconciler.look(settings, celery)
    assert waiting(celery, "cpu") == 1


def test_a_job_that_pauses_gets_no_hint_yet(session: Session, settings: Settings, celery: Celery) -> None:
    job = add_job(session)
    job.not_before = clock(session) + timedelta(seconds=60)
    session.commit()
    reconciler.look(settings, celery)
    assert waiting(celery, "cpu") == 0


def test_it_looks_at_once_when_it_is_asked_to(session: Session, settings: Settings, celery: Celery) -> None:
    seldom = settings.model_copy(update={"reconcile_seconds": 60.0})
    with reconciler.reconciling(seldom, celery) as wake:
        add_job(session)
        wake()
        wait_until(lambda: waiting(celery, "cpu") == 1, seconds=5)


def test_neither_a_broker_nor_a_database_that_is_away_ends_it(
    session: Session, settings: Settings, celery: Celery
) -> None:
    add_job(session)
    nowhere = free_port()
    away = create_celery(settings.model_copy(update={"broker_url": f"redis://127.0.0.1:{nowhere}/0"}))
    reconciler.look(settings, away)
    reconciler.look(settings.model_copy(update={"database_url": f"postgresql://127.0.0.1:{nowhere}/x"}), celery)
    assert waiting(celery, "cpu") == 0
    reconciler.look(settings, celery)
    assert waiting(celery, "cpu") == 1


def test_checkpoints_and_workers_of_long_ago_are_forgotten(session: Session) -> None:
    workers.announce_worker(session, "old", "cpu", {})
    for name, age in (("old", timedelta(days=30)), ("new", timedelta(0))):
        at = clock(session) - age
        session.add(Checkpoint(key="k" * 64, name=name, sha256="c" * 64, bytes=1, created_at=at))
    session.get_one(Worker, "old").seen_at = clock(session) - timedelta(days=30)
    session.commit()
    reconciler.recover(session)
    assert claims.checkpoints(session, "k" * 64) == {"new": "c" * 64}
    assert session.get(Worker, "old") is None
