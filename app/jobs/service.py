"""What a caller may do with jobs, and delete what no live job needs. Each is one transaction."""

from collections.abc import Collection

from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app.accounts import audit
from app.accounts.caller import project_of_caller
from app.accounts.quotas import NO_QUOTAS, Quotas
from app.catalog.service import Catalog, Row
from app.database import begin_writing, clock
from app.errors import Conflict, Invalid, TooMany
from app.jobs import repository
from app.jobs.kinds import JobKind
from app.jobs.models import Job
from app.jobs.queries import no_job
from app.jobs.status import DROP, RECALL, TERMINAL, JobState
from app.jobs.submission import Admitted, MostSeconds, Submission, admit, new_job, same_again
from app.jobs.usage import check_jobs


def submit(session: Session, submission: Submission, most: MostSeconds, quotas: Quotas = NO_QUOTAS) -> Job:
    """Accept a job, or return the one that the same key and request made before. Raises Invalid, NotFound, TooMany.

    From the commit on the job will be run, even if the broker loses every message.
    """
    prepared = prepare(session, submission)
    return accept(session, prepared, most, quotas) if isinstance(prepared, Admitted) else prepared


def prepare(session: Session, submission: Submission) -> Job | Admitted:
    """Check a submission, or return the job that the same key and request already made. Raises Invalid, NotFound.

    Nobody waits for a lock while names are compared.
    """
    return _earlier(session, submission) or admit(session, submission)


def accept(session: Session, admitted: Admitted, most: MostSeconds, quotas: Quotas = NO_QUOTAS) -> Job:
    """Accept a job that passed its checks. Raises Invalid, NotFound, TooMany."""
    submission = admitted.submission
    begin_writing(session)
    try:
        check_jobs(session, project_of_caller(), quotas)
    except TooMany:
        # The same request may have been accepted since we looked: it counts once.
        if earlier := _earlier(session, submission):
            return earlier
        raise
    try:
        job = new_job(session, admitted, most)
        session.add(job)
        session.flush()
    except IntegrityError:
        session.rollback()
        if submission.idempotency_key is None:
            raise
        # Another request committed the same key since we looked.
        return _earlier(session, submission) or accept(session, admitted, most, quotas)
    repository.add_event(session, job.id, "state", {"state": JobState.QUEUED})
    audit.record(session, f"{job.kind}.submitted", job.id)
    session.commit()
    return job


def request_cancel(session: Session, job_id: str) -> Job:
    """Stop a job: at once while it is queued, soon while it runs; again changes nothing. Raises NotFound, Conflict."""
    begin_writing(session)
    job = repository.lock(session, job_id) or no_job(job_id)
    state = JobState(job.state)
    if state in TERMINAL - {JobState.CANCELLED}:
        raise Conflict(
            "job_finished", f"The job {job_id} is {state}.", "Only a job that has not ended can be cancelled."
        )
    if state in DROP.sources:
        repository.move(session, job_id, DROP, job.token, {"finished_at": clock(session)})
    elif state in RECALL.sources:
        repository.move(session, job_id, RECALL, job.token, {})
    if job.state != state:
        audit.record(session, f"{job.kind}.cancelled", job.id)
        repository.add_event(session, job.id, "state", {"state": job.state})
    session.commit()
    return job


def retry(job: Job, idempotency_key: str | None, request_id: str | None) -> Submission:
    """Return the request of a job that has ended, to be submitted once more. Raises Conflict."""
    _require_end(job, f"It may still succeed; POST {_address(job)}/cancel stops it.")
    return same_again(job, idempotency_key, request_id)


def change(session: Session, job_id: str, tags: Collection[str] | None, priority: int | None) -> None:
    """Give a job other tags, or while it is queued another priority; None leaves one. Raises NotFound, Conflict."""
    begin_writing(session)
    job = repository.lock(session, job_id) or no_job(job_id)
    if priority is not None and job.state != JobState.QUEUED:
        detail = f"The job {job_id} is {job.state}: its priority counted while it was queued."
        raise Conflict("job_not_queued", detail, "Leave priority out; tags can be changed at any time.")
    if tags is not None:
        repository.replace_tags(session, job_id, tags)
    if priority is not None:
        repository.change(session, job_id, priority=priority)
    if tags is not None or priority is not None:
        audit.record(session, f"{job.kind}.changed", job_id)
    session.commit()
    session.expire(job)


def forget(session: Session, job_id: str) -> None:
    """Delete a job that has ended, with its history and files. Raises NotFound, Conflict."""
    begin_writing(session)
    job = repository.lock(session, job_id) or no_job(job_id)
    _require_end(job, f"POST {_address(job)}/cancel stops it; delete it once it has ended.")
    repository.delete_one(session, job_id)
    audit.record(session, f"{job.kind}.deleted", job_id)
    session.commit()


def _require_end(job: Job, remedy: str) -> None:
    if JobState(job.state) not in TERMINAL:
        raise Conflict("job_active", f"The job {job.id} is {job.state}.", remedy)


def _address(job: Job) -> str:
    return f"/v1/{'sweeps' if job.kind == JobKind.SWEEP else 'jobs'}/{job.id}"


def delete(session: Session, catalog: Catalog[Row], upload_id: str) -> None:
    """Delete a model or dataset that no live job needs. Raises NotFound, Conflict."""
    begin_writing(session)
    row = catalog.lock(session, upload_id)
    job_id = repository.live_job_with(session, upload_id)
    if job_id is not None:
        detail, remedy = f"The job {job_id} needs {upload_id}.", "Wait until the job has ended, or cancel it."
        raise Conflict(catalog.in_use, detail, remedy)
    session.delete(row)
    audit.record(session, f"{catalog.word}.deleted", upload_id)
    session.commit()


def _earlier(session: Session, submission: Submission) -> Job | None:
    key = submission.key_digest
    job = repository.find_by_key(session, key) if key else None
    if job is not None and job.request_sha256 != submission.sha256:
        raise Invalid(
            "idempotency_key_reused",
            "This Idempotency-Key was already used for another request.",
            "Use a new key for a new request; repeat a request unchanged.",
        )
    return job
