"""The use-cases of jobs, on both databases: what a worker may write, and what nobody may."""

import threading
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.orm import Session, sessionmaker

from app.errors import Conflict
from app.jobs import queries, service
from app.jobs.service import Claim, Input, Product, Standing
from app.jobs.submission import Submission
from app.storage import Blob, Storage
from quantization.folder import Failure, Progress
from quantization.recipe import Recipe
from tests.factories import add_dataset, add_job, add_model

WEIGHT_ONLY = Recipe(activations=None)
MODEL_FILE = Product("model.safetensors", "safetensors", Blob("c" * 64, 3))
REPORT = Product("report.json", "report", Blob("d" * 64, 4))
FAILURE = Failure(code="crashed", title="It crashed", detail="It did.", remedy="Try.", phase="calibrating")


def claimed(session: Session) -> Claim:
    claim = service.claim(session, add_job(session).id, "worker")
    assert claim is not None
    return claim


def history(session: Session, job_id: str) -> list[tuple[int, str, Any]]:
    rows = queries.events(session, job_id, 0, 100)
    return [(row.seq, row.kind, row.data.get("state") or row.data.get("phase")) for row in rows]


def test_claim_gives_all_that_a_worker_needs(session: Session, storage: Storage, archive: Path, samples: Path) -> None:
    model = add_model(session, storage, archive)
    dataset = add_dataset(session, storage, samples.read_bytes())
    wish = Submission(model=model.id, recipe=Recipe(seed=7), dataset=dataset.id, evaluation_dataset=dataset.id)
    job = service.submit(session, wish, lambda *_: None)
    taken = Input(dataset.stored_sha256, dataset.stored_bytes, dataset.sha256, dataset.bytes)
    assert service.claim(session, job.id, "worker") == Claim(
        job_id=job.id,
        token=1,
        attempt=1,
        recipe=Recipe(seed=7),
        device="cpu",
        model=Input(model.stored_sha256, model.stored_bytes, model.sha256, model.bytes),
        dataset=taken,
        evaluation_dataset=taken,
    )


def test_a_job_is_claimed_once(sessions: sessionmaker[Session]) -> None:
    with sessions() as session:
        job_id = add_job(session).id
    barrier = threading.Barrier(4)
    claims: list[Claim | None] = []

    def claim() -> None:
        barrier.wait()
        with sessions() as session:
            claims.append(service.claim(session, job_id, "worker"))

    threads = [threading.Thread(target=claim) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(claim is not None for claim in claims) == 1


@pytest.mark.parametrize("job_id", ["job_0", "nonsense"])
def test_an_unknown_job_is_nothing_to_claim(session: Session, job_id: str) -> None:
    assert service.claim(session, job_id, "worker") is None


def test_a_cancelled_job_is_never_claimed(session: Session) -> None:
    job = add_job(session)
    assert service.request_cancel(session, job.id).state == "cancelled"
    assert service.claim(session, job.id, "worker") is None


def test_progress_is_written_and_a_new_phase_is_an_event(session: Session) -> None:
    claim = claimed(session)
    for done in (1, 2):
        progress = Progress(phase="calibrating", done=done, total=4)
        assert service.report_progress(session, claim, progress, 1.5) == Standing.GO_ON
    job = queries.read(session, claim.job_id)
    assert (job.phase, job.progress) == (
        "calibrating",
        {"done": 2, "total": 4, "fraction": 0.5, "eta_seconds": 1.5},
    )
    assert history(session, job.id) == [(1, "state", "queued"), (2, "state", "running"), (3, "phase", "calibrating")]


def test_a_worker_hears_of_a_cancel(session: Session) -> None:
    claim = claimed(session)
    assert service.standing(session, claim) == Standing.GO_ON
    assert service.request_cancel(session, claim.job_id).state == "cancelling"
    assert service.standing(session, claim) == Standing.CANCEL
    assert service.report_progress(session, claim, Progress(phase="saving"), None) == Standing.CANCEL


def test_cancel_may_be_repeated_until_the_end(session: Session) -> None:
    claim = claimed(session)
    for _ in range(2):
        assert service.request_cancel(session, claim.job_id).state == "cancelling"
    assert service.finish_cancelled(session, claim)
    with pytest.raises(Conflict):
        service.request_cancel(session, claim.job_id)
    assert [event[2] for event in history(session, claim.job_id)] == ["queued", "running", "cancelling", "cancelled"]


def test_success_is_recorded_with_its_artifacts(session: Session) -> None:
    claim = claimed(session)
    assert service.finish_succeeded(session, claim, "passed", [MODEL_FILE, REPORT])
    job = queries.read(session, claim.job_id)
    assert (job.state, job.verdict, job.phase) == ("succeeded", "passed", None)
    assert job.finished_at is not None
    assert [row.name for row in queries.artifacts(session, job.id)] == ["model.safetensors", "report.json"]
    assert queries.report(session, job.id).sha256 == REPORT.blob.sha256


def test_failure_is_recorded_with_its_reason(session: Session) -> None:
    claim = claimed(session)
    assert service.finish_failed(session, claim, FAILURE, [])
    job = queries.read(session, claim.job_id)
    assert (job.state, job.verdict, job.error) == ("failed", None, FAILURE.model_dump())


def test_failed_validation_keeps_its_report_and_verdict(session: Session) -> None:
    claim = claimed(session)
    service.finish_failed(session, claim, FAILURE.model_copy(update={"code": "validation_failed"}), [REPORT])
    assert queries.read(session, claim.job_id).verdict == "failed"
    assert queries.report(session, claim.job_id).sha256 == REPORT.blob.sha256


def test_work_that_ended_before_a_cancel_arrived_is_recorded_as_it_ended(session: Session) -> None:
    claim = claimed(session)
    service.request_cancel(session, claim.job_id)
    assert service.finish_succeeded(session, claim, "passed", [])
    assert queries.read(session, claim.job_id).state == "succeeded"


def test_a_stale_token_writes_nothing(session: Session) -> None:
    claim = claimed(session)
    stale = Claim(**{**vars(claim), "token": claim.token - 1})
    assert service.standing(session, stale) == Standing.LOST
    assert service.report_progress(session, stale, Progress(phase="saving"), None) == Standing.LOST
    assert not service.finish_succeeded(session, stale, "passed", [MODEL_FILE])
    assert not service.finish_failed(session, stale, FAILURE, [REPORT])
    assert not service.finish_cancelled(session, stale)
    job = queries.read(session, claim.job_id)
    assert (job.state, job.phase, queries.artifacts(session, job.id)) == ("running", None, [])


def test_an_end_is_recorded_once(session: Session) -> None:
    claim = claimed(session)
    service.finish_succeeded(session, claim, "passed", [MODEL_FILE])
    assert not service.finish_failed(session, claim, FAILURE, [REPORT])
    assert service.standing(session, claim) == Standing.LOST
    assert queries.read(session, claim.job_id).state == "succeeded"


def test_queued_jobs_are_listed_for_a_worker_that_starts(session: Session) -> None:
    first, second = add_job(session), add_job(session)
    claimed(session)
    assert service.queued_job_ids(session) == [(first.id, "cpu"), (second.id, "cpu")]
