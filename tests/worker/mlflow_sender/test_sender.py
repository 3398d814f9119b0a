"""A run for each job, whatever becomes of the job and of the server: on a real MLflow server."""

import json
import signal
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from app.accounts.caller import called_by
from app.catalog.models import Model
from app.database import clock
from app.jobs import endings, mlflow_runs, reconciler, service
from app.jobs.claims import Claim
from app.jobs.endings import Product
from app.jobs.models import Job, MlflowRun
from app.storage import Storage
from tests.factories import add_job, claim_one, member_of
from tests.mlflow_server import MlflowServer
from tests.servers import free_port
from worker.mlflow_sender import sender as sending
from worker.mlflow_sender.sender import Sender
from worker.mlflow_sender.tracking import Tracking
from zeropoint.schema.job import REPORT_FILE, Failure

pytestmark = [pytest.mark.slow, pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)]

REPORT: dict[str, Any] = {
    "summary": {"sqnr_db": 31.5, "compression_ratio": 3.75, "quantized_bytes": 100, "layers_quantized": 3},
    "peak_memory_bytes": 7,
}


def stored(storage: Storage, report: object = REPORT) -> Sequence[Product]:
    with storage.writer() as writer:
        writer.write(json.dumps(report).encode())
        return [Product(REPORT_FILE, "report", writer.commit())]


def succeed(session: Session, storage: Storage, claim: Claim) -> None:
    assert endings.succeed(session, claim, "passed", stored(storage))


def rows(session: Session) -> Sequence[MlflowRun]:
    session.rollback()
    return session.scalars(select(MlflowRun), execution_options={"populate_existing": True}).all()


def let_pauses_pass(session: Session) -> None:
    session.execute(update(MlflowRun).values(due_at=clock(session) - timedelta(seconds=1)))
    session.commit()


def test_a_run_is_opened_with_the_claim_and_closed_with_all_that_is_known(
    session: Session, storage: Storage, sender: Sender, mlflow: MlflowServer, tmp_path: Path
) -> None:
    job = add_job(session, project="team-a", tags=("nightly",), owner="ann")
    claim = claim_one(session)
    assert sender.look() == sending.POLL_SECONDS
    opened = mlflow.run(job.id)
    assert (opened.info.status, opened.info.end_time) == ("RUNNING", None)
    assert mlflow.client.get_experiment(opened.info.experiment_id).name == "team-a"
    assert (opened.data.params["weights.dtype"], opened.data.params["activations"]) == ("qint8", "null")
    assert opened.data.tags.items() >= {"zeropoint.owner": "ann", "zeropoint.tags": "nightly"}.items()

    succeed(session, storage, claim)
    sender.look()
    closed = mlflow.run(job.id)
    session.refresh(job)
    assert job.finished_at is not None
    assert closed.info.status == "FINISHED"
    assert closed.info.end_time == int(job.finished_at.timestamp() * 1000)
    assert closed.data.metrics.items() >= {"sqnr_db": 31.5, "compression_ratio": 3.75, "layers_quantized": 3}.items()
    assert closed.data.metrics["seconds/total"] >= 0
    assert closed.data.tags["zeropoint.verdict"] == "passed"
    assert mlflow.files(closed) == ["recipe.json", "report.json"]
    assert json.loads(mlflow.text(closed, "report.json", tmp_path)) == REPORT
    assert json.loads(mlflow.text(closed, "recipe.json", tmp_path)) == job.recipe
    assert rows(session) == []


def test_a_job_that_fails_has_its_code_and_its_report(
    session: Session, storage: Storage, sender: Sender, mlflow: MlflowServer
) -> None:
    job, claim = add_job(session), claim_one(session)
    failure = Failure(
        code="validation_failed", title="Not good enough", detail="20 dB < 30 dB.", remedy="Use more samples."
    )
    assert endings.fail(session, claim, failure, stored(storage))
    sender.look()
    run = mlflow.run(job.id)
    assert run.info.status == "FAILED"
    assert (run.data.tags["zeropoint.code"], run.data.tags["zeropoint.verdict"]) == ("validation_failed", "failed")
    assert failure.remedy in run.data.tags["mlflow.note.content"]
    assert run.data.metrics["sqnr_db"] == 31.5


@pytest.mark.parametrize("when", ["waits", "runs"])
def test_a_cancelled_job_is_killed(when: str, session: Session, sender: Sender, mlflow: MlflowServer) -> None:
    job = add_job(session)
    claim = claim_one(session) if when == "runs" else None
    sender.look()
    assert len(mlflow.runs(job.id)) == (when == "runs")
    with called_by(member_of("default")):
        service.request_cancel(session, job.id)
    if claim:
        endings.stop(session, claim)
    sender.look()
    run = mlflow.run(job.id)
    assert (run.info.status, run.data.tags["zeropoint.state"]) == ("KILLED", "cancelled")


def test_attempts_that_are_lost_and_repeated_are_one_run(
    session: Session, storage: Storage, sender: Sender, mlflow: MlflowServer
) -> None:
    job = add_job(session)
    claim_one(session)
    sender.look()
    first = mlflow.run(job.id)
    session.execute(update(Job).values(lease_until=clock(session) - timedelta(seconds=1)))
    session.commit()
    reconciler.recover(session)
    sender.look()
    assert mlflow.run(job.id).info.status == "RUNNING"
    succeed(session, storage, claim_one(session))
    sender.look()
    run = mlflow.run(job.id)
    assert (run.info.run_id, run.info.start_time) == (first.info.run_id, first.info.start_time)
    assert (run.info.status, run.data.tags["zeropoint.attempts"]) == ("FINISHED", "2")


def test_a_job_whose_last_attempt_is_lost_is_closed_by_the_reconciler(
    session: Session, sender: Sender, mlflow: MlflowServer
) -> None:
    job = add_job(session)
    claim_one(session)
    sender.look()
    lost = {"lease_until": clock(session) - timedelta(seconds=1), "fruitless": endings.MAX_ATTEMPTS}
    session.execute(update(Job).values(lost))
    session.commit()
    reconciler.recover(session)
    sender.look()
    run = mlflow.run(job.id)
    assert (run.info.status, run.data.tags["zeropoint.code"]) == ("FAILED", "worker_lost")


def test_a_server_that_is_away_for_a_whole_job_hears_of_it_later(
    session: Session, storage: Storage, sender: Sender, mlflow: MlflowServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "worker.mlflow_sender")
    sender.tracking = Tracking(f"http://127.0.0.1:{free_port()}")
    jobs = [add_job(session) for _ in range(3)]
    pauses = []
    for _ in jobs:
        claim = claim_one(session)
        pauses.append(sender.look())
        succeed(session, storage, claim)
    assert pauses == [1, 2, 4]
    assert {row.last_error for row in rows(session)} == {"MlflowException"}
    assert mlflow_runs.waiting(session).jobs == 3
    assert caplog.text.count("MLflow does not answer") == 1

    sender.tracking = Tracking(mlflow.address)
    let_pauses_pass(session)
    assert sender.look() == sending.POLL_SECONDS
    assert "MLflow is back" in caplog.text
    for job in jobs:
        session.refresh(job)
        run = mlflow.run(job.id)
        assert run.info.status == "FINISHED"
        assert job.finished_at is not None
        assert run.info.end_time == int(job.finished_at.timestamp() * 1000)
    assert rows(session) == []


def test_once_a_server_is_back_all_that_failed_is_due(session: Session, sender: Sender, mlflow: MlflowServer) -> None:
    """What was tried long ago doesn't wait for its pause."""
    sender.tracking = Tracking(f"http://127.0.0.1:{free_port()}")
    jobs = [add_job(session), add_job(session)]
    claim_one(session)
    sender.look()
    claim_one(session)
    sender.tracking = Tracking(mlflow.address)
    sender.look()
    assert [len(mlflow.runs(job.id)) for job in jobs] == [1, 1]


def test_a_server_that_hangs_takes_no_longer_than_it_may_and_makes_no_second_run(
    session: Session, storage: Storage, sender: Sender, mlflow: MlflowServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does what it was asked for once it goes on, when nobody waits for it any more."""
    monkeypatch.setattr(sending, "MOST_SECONDS", 0.3)
    job, claim = add_job(session), claim_one(session)
    mlflow.signal(signal.SIGSTOP)
    try:
        began = time.monotonic()
        assert sender.look() == 1
        assert time.monotonic() - began < 5
        let_pauses_pass(session)
        sender.look()
        succeed(session, storage, claim)
    finally:
        mlflow.signal(signal.SIGCONT)
    monkeypatch.undo()
    let_pauses_pass(session)
    sender.look()
    assert mlflow.run(job.id).info.status == "FINISHED"


def test_runs_that_a_lost_answer_left_are_deleted(
    session: Session, storage: Storage, sender: Sender, mlflow: MlflowServer
) -> None:
    job, claim = add_job(session), claim_one(session)
    sender.look()
    first = mlflow.run(job.id)
    later = first.info.start_time + 1
    mlflow.client.create_run(first.info.experiment_id, later, {"zeropoint.job_id": job.id})
    succeed(session, storage, claim)
    sender.look()
    run = mlflow.run(job.id)
    assert (run.info.run_id, run.info.status) == (first.info.run_id, "FINISHED")


def test_a_run_is_closed_though_its_artifacts_find_no_place(
    session: Session, storage: Storage, sender: Sender, mlflow: MlflowServer, caplog: pytest.LogCaptureFixture
) -> None:
    mlflow.client.create_experiment("no-place", artifact_location="nowhere://there")
    job, other = add_job(session, project="no-place"), add_job(session)
    succeed(session, storage, claim_one(session))
    succeed(session, storage, claim_one(session))
    sender.look()
    assert mlflow.run(job.id).info.status == mlflow.run(other.id).info.status == "FINISHED"
    assert mlflow.run(job.id).data.metrics["sqnr_db"] == 31.5
    assert [row.job_id for row in rows(session)] == [job.id]
    assert "MLflow refused something of this job" in caplog.text


def test_an_experiment_that_somebody_deleted_keeps_up_its_own_jobs_alone(
    session: Session, storage: Storage, sender: Sender, mlflow: MlflowServer, caplog: pytest.LogCaptureFixture
) -> None:
    experiment = mlflow.client.create_experiment("deleted")
    mlflow.client.delete_experiment(experiment)
    job, other = add_job(session, project="deleted"), add_job(session)
    succeed(session, storage, claim_one(session))
    succeed(session, storage, claim_one(session))
    sender.look()
    assert mlflow.run(other.id).info.status == "FINISHED"
    assert "restore it there" in str([record.__dict__.get("fields") for record in caplog.records])
    mlflow.client.restore_experiment(experiment)
    let_pauses_pass(session)
    sender.look()
    assert mlflow.run(job.id).info.status == "FINISHED"


def test_a_job_that_was_deleted_closes_its_run(
    session: Session, storage: Storage, sender: Sender, mlflow: MlflowServer
) -> None:
    job, claim = add_job(session), claim_one(session)
    sender.look()
    succeed(session, storage, claim)
    session.execute(delete(Job).where(Job.id == job.id))
    session.commit()
    sender.look()
    assert mlflow.run(job.id).info.status == "FINISHED"
    assert rows(session) == []


def test_a_report_whose_bytes_are_gone_is_left_out(
    session: Session, storage: Storage, sender: Sender, mlflow: MlflowServer
) -> None:
    job, claim = add_job(session), claim_one(session)
    products = stored(storage, REPORT | {"peak_memory_bytes": 8})
    endings.succeed(session, claim, "passed", products)
    storage.delete(products[0].blob.sha256)
    sender.look()
    run = mlflow.run(job.id)
    assert (run.info.status, mlflow.files(run)) == ("FINISHED", ["recipe.json"])


def test_after_a_day_a_job_is_given_up(
    session: Session, storage: Storage, sender: Sender, caplog: pytest.LogCaptureFixture
) -> None:
    sender.tracking = Tracking(f"http://127.0.0.1:{free_port()}")
    add_job(session)
    succeed(session, storage, claim_one(session))
    for hours, left in ((23, 1), (25, 0)):
        session.execute(update(Job).values(finished_at=clock(session) - timedelta(hours=hours)))
        let_pauses_pass(session)
        sender.look()
        assert len(rows(session)) == left
    assert "for a day, and will not" in caplog.text


NAMES = ["größe 日本語 😀", "a/b:c '\"`%\\;--", "\n\t tab", "x" * 64]


@pytest.mark.parametrize("name", NAMES)
def test_odd_names_arrive(name: str, session: Session, storage: Storage, sender: Sender, mlflow: MlflowServer) -> None:
    job = add_job(session, tags=(name,), owner=name)
    session.execute(update(Model).values(name=name))
    session.commit()
    succeed(session, storage, claim_one(session))
    sender.look()
    run = mlflow.run(job.id)
    assert run.info.status == "FINISHED"
    assert run.data.tags["zeropoint.owner"] == run.data.tags["zeropoint.tags"] == name
    assert run.data.tags["zeropoint.model_name"] == name
