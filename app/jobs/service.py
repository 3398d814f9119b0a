"""Use-cases of jobs, each one transaction. The row is the truth: a worker writes only where its token still matches."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app import VERSION
from app.catalog import repository as catalog
from app.catalog.models import Dataset, Model
from app.catalog.service import no_dataset, no_model
from app.database import begin_writing, new_id, now
from app.errors import Conflict, Invalid
from app.jobs import repository
from app.jobs.models import Artifact, Job, Worker
from app.jobs.queries import no_job
from app.jobs.status import TERMINAL, JobState
from app.jobs.submission import Submission, accept
from app.storage import Blob
from quantization.folder import Failure, Progress
from quantization.recipe import Recipe

VALIDATION_FAILED = "validation_failed"

Hint = Callable[[str, str, int], None]
"""Sends a job's id to the queue of a device with a priority; never raises."""


class Standing(StrEnum):
    """What the row says to the worker that holds a token."""

    GO_ON = "go_on"
    CANCEL = "cancel"
    LOST = "lost"


@dataclass(frozen=True)
class Input(Blob):
    """A blob that the gate wrote, and the upload that it stands for: what its owner knows it by."""

    uploaded_sha256: str
    uploaded_bytes: int


@dataclass(frozen=True)
class Claim:
    """A worker's right to run a job, and all it needs to do so."""

    job_id: str
    token: int
    attempt: int
    recipe: Recipe
    device: str
    model: Input
    dataset: Input | None
    evaluation_dataset: Input | None


@dataclass(frozen=True)
class Product:
    """One artifact that was stored."""

    name: str
    kind: str
    blob: Blob


def submit(session: Session, submission: Submission, hint: Hint) -> Job:
    """Accept a job, or return the one that the same key and request already made. Raises Invalid, NotFound."""
    begin_writing(session)
    job = _earlier(session, submission)
    if job is None:
        job = accept(session, submission)
        session.add(job)
        try:
            session.flush()
        except IntegrityError:
            if submission.idempotency_key is None:
                raise
            # Another request committed the same key since we looked.
            return submit(session, submission, hint)
        repository.add_event(session, job.id, "state", {"state": JobState.QUEUED})
    session.commit()
    if job.state == JobState.QUEUED:
        hint(job.id, job.device, job.priority)
    return job


def request_cancel(session: Session, job_id: str) -> Job:
    """Stop a job: at once while it is queued, soon while it runs. Raises NotFound, Conflict."""
    begin_writing(session)
    job = repository.lock(session, job_id) or no_job(job_id)
    state = JobState(job.state)
    if state in TERMINAL:
        raise Conflict(
            "job_finished", f"The job {job_id} is {state}.", "Only a job that has not ended can be cancelled."
        )
    if state == JobState.QUEUED:
        job.state, job.finished_at = JobState.CANCELLED, now()
    elif state == JobState.RUNNING:
        job.state = JobState.CANCELLING
    if job.state != state:
        repository.add_event(session, job.id, "state", {"state": job.state})
    session.commit()
    return job


def delete_model(session: Session, model_id: str) -> None:
    """Delete a model that no live job needs. Raises NotFound, Conflict."""
    begin_writing(session)
    model = catalog.lock(session, Model, model_id) or no_model(model_id)
    _refuse_while_needed(session, "model_in_use", model_id)
    session.delete(model)
    session.commit()


def delete_dataset(session: Session, dataset_id: str) -> None:
    """Delete a dataset that no live job needs. Raises NotFound, Conflict."""
    begin_writing(session)
    dataset = catalog.lock(session, Dataset, dataset_id) or no_dataset(dataset_id)
    _refuse_while_needed(session, "dataset_in_use", dataset_id)
    session.delete(dataset)
    session.commit()


def claim(session: Session, job_id: str, worker: str) -> Claim | None:
    """Take a queued job; None when there is nothing to do."""
    begin_writing(session)
    job = repository.claim(session, job_id, worker)
    if job is None:
        session.rollback()
        return None
    repository.add_event(session, job_id, "state", {"state": JobState.RUNNING, "attempt": job.attempts})
    taken = Claim(
        job_id=job.id,
        token=job.token,
        attempt=job.attempts,
        recipe=Recipe.model_validate(job.recipe),
        device=job.device,
        model=_input(catalog.find(session, Model, job.model_id) or no_model(job.model_id)),
        dataset=_dataset_input(session, job.dataset_id),
        evaluation_dataset=_dataset_input(session, job.evaluation_dataset_id),
    )
    session.commit()
    return taken


def report_progress(session: Session, claim: Claim, progress: Progress, eta_seconds: float | None) -> Standing:
    """Record how far the work is; a new phase is a line of the history."""
    begin_writing(session)
    job = repository.lock(session, claim.job_id)
    found = _standing(job, claim)
    if job is None or found == Standing.LOST:
        session.rollback()
        return Standing.LOST
    if job.phase != progress.phase:
        repository.add_event(session, job.id, "phase", {"phase": progress.phase})
    job.phase, job.done, job.total = progress.phase, progress.done, progress.total
    job.eta_seconds = eta_seconds
    session.commit()
    return found


def standing(session: Session, claim: Claim) -> Standing:
    """Say whether the worker shall go on; a read that ends its transaction."""
    found = _standing(repository.find(session, claim.job_id), claim)
    session.rollback()
    return found


def finish_succeeded(session: Session, claim: Claim, verdict: str, products: Sequence[Product]) -> bool:
    """Record success with its artifacts; False when the token is no longer the job's and nothing was written."""
    return _finish(session, claim, JobState.SUCCEEDED, products, verdict=verdict)


def finish_failed(session: Session, claim: Claim, failure: Failure, products: Sequence[Product]) -> bool:
    """Record why a job failed; a report may come with it."""
    verdict = "failed" if failure.code == VALIDATION_FAILED else None
    return _finish(session, claim, JobState.FAILED, products, verdict=verdict, error=failure.model_dump())


def finish_cancelled(session: Session, claim: Claim) -> bool:
    """Record that the work was stopped."""
    return _finish(session, claim, JobState.CANCELLED, ())


def announce_worker(session: Session, name: str, device: str, sandbox: Mapping[str, bool]) -> None:
    """Note that a worker lives, and which layers of its sandbox hold."""
    begin_writing(session)
    worker = repository.find_worker(session, name)
    if worker is None:
        worker = Worker(name=name, started_at=now())
        session.add(worker)
    worker.device, worker.version, worker.sandbox, worker.seen_at = device, VERSION, dict(sandbox), now()
    session.commit()


def queued_job_ids(session: Session) -> list[tuple[str, str]]:
    """Return id and device queue of every queued job, oldest first."""
    return repository.queued(session)


def _earlier(session: Session, submission: Submission) -> Job | None:
    key = submission.idempotency_key
    job = repository.find_by_key(session, key) if key else None
    if job is not None and job.request_sha256 != submission.sha256:
        raise Invalid(
            "idempotency_key_reused",
            f"This Idempotency-Key made the job {job.id} from another request.",
            "Use a new key for a new request; repeat a request unchanged.",
        )
    return job


def _refuse_while_needed(session: Session, code: str, upload_id: str) -> None:
    job_id = repository.live_job_with(session, upload_id)
    if job_id is not None:
        raise Conflict(code, f"The job {job_id} needs {upload_id}.", "Wait until the job has ended, or cancel it.")


def _finish(session: Session, claim: Claim, state: JobState, products: Sequence[Product], **results: Any) -> bool:
    begin_writing(session)
    if not repository.finish(session, claim.job_id, claim.token, state, **results):
        session.rollback()
        return False
    for product in products:
        session.add(
            Artifact(
                id=new_id("art"),
                job_id=claim.job_id,
                attempt=claim.attempt,
                name=product.name,
                kind=product.kind,
                bytes=product.blob.bytes,
                sha256=product.blob.sha256,
                created_at=now(),
            )
        )
    data = {"state": state} | {key: value for key, value in results.items() if value is not None}
    repository.add_event(session, claim.job_id, "state", data)
    session.commit()
    return True


def _standing(job: Job | None, claim: Claim) -> Standing:
    if job is None or job.token != claim.token or JobState(job.state) in TERMINAL:
        return Standing.LOST
    return Standing.CANCEL if job.state == JobState.CANCELLING else Standing.GO_ON


def _dataset_input(session: Session, dataset_id: str | None) -> Input | None:
    if dataset_id is None:
        return None
    return _input(catalog.find(session, Dataset, dataset_id) or no_dataset(dataset_id))


def _input(upload: Model | Dataset) -> Input:
    return Input(upload.stored_sha256, upload.stored_bytes, upload.sha256, upload.bytes)
