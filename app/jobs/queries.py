"""Queries about jobs; nothing here writes."""

from collections.abc import Collection, Sequence
from typing import Literal, NamedTuple, NoReturn

from sqlalchemy.orm import Session

from app.database import clock
from app.errors import NotFound
from app.jobs import repository
from app.jobs.kinds import JobKind
from app.jobs.lists import JobFilter, page_of
from app.jobs.models import Artifact, Attempt, Job, JobEvent
from app.jobs.status import TERMINAL, JobState
from app.jobs.work import QuantizeWork, SweepWork
from app.jobs.workers import live_devices

JobRow = Job
ArtifactRow = Artifact
"""For annotations of those who may not name the tables."""

WaitingFor = Literal["worker", "pause", "slot"]
"""A live worker with the job's device; the end of the pause before another attempt; a worker that is not busy."""


def read(session: Session, job_id: str) -> Job:
    """Return a job that is not a sweep, with its recipe. Raises NotFound."""
    job = repository.find_whole(session, job_id) or no_job(job_id)
    if job.kind == JobKind.SWEEP:
        no_job(job_id, f"GET /v1/sweeps/{job_id} reads it: it is a sweep.")
    return job


def read_sweep(session: Session, sweep_id: str) -> Job:
    """Return a sweep. Raises NotFound."""
    job = repository.find_whole(session, sweep_id)
    if job is None or job.kind != JobKind.SWEEP:
        raise NotFound("sweep_not_found", f"There is no sweep {sweep_id}.", "GET /v1/sweeps lists what there is.")
    return job


def read_any(session: Session, job_id: str) -> Job:
    """Return a job or a sweep: history, attempts and artifacts of both are read alike. Raises NotFound."""
    return repository.find(session, job_id) or no_job(job_id)


def read_many(session: Session, job_ids: Collection[str]) -> Sequence[Job]:
    """Return those of some jobs that there are."""
    return repository.find_many(session, job_ids)


def existing(session: Session, job_ids: Collection[str]) -> set[str]:
    """Return those of some ids that are jobs'."""
    return repository.in_states(session, job_ids, list(JobState))


def ended(session: Session, job_ids: Collection[str]) -> set[str]:
    """Return those of some jobs that have ended."""
    return repository.in_states(session, job_ids, TERMINAL)


class Outcome(NamedTuple):
    """Where a job stands: its state, the code of its failure if it failed, its verdict if it has one."""

    state: JobState
    code: str | None
    verdict: str | None


def outcome(session: Session, job_id: str) -> Outcome:
    """Return where a job stands. Raises NotFound."""
    job = read_any(session, job_id)
    return Outcome(JobState(job.state), job.error["code"] if job.error else None, job.verdict)


def page(session: Session, kind: JobKind, chosen: JobFilter, before: str | None, limit: int) -> Sequence[Job]:
    """Return the jobs of a kind, newest first, older than the id `before`."""
    return page_of(session, kind, chosen, before, limit)


def events(session: Session, job_id: str, after: int, limit: int) -> Sequence[JobEvent]:
    """Return a job's history behind a number. Raises NotFound."""
    return repository.events(session, read_any(session, job_id).id, after, limit)


def artifacts(session: Session, job_id: str, after: str | None = None, limit: int | None = None) -> Sequence[Artifact]:
    """Return what a job produced, all by name, or a page behind an id by id. Raises NotFound."""
    job = read_any(session, job_id)
    if limit is None:
        return repository.artifacts(session, job.id)
    return repository.artifact_page(session, job.id, after, limit)


def artifact(session: Session, job_id: str, name: str) -> Artifact:
    """Return one artifact. Raises NotFound."""
    artifact = repository.find_artifact(session, read_any(session, job_id).id, name)
    if artifact is None:
        raise NotFound(
            "artifact_not_found",
            f"The job {job_id} has no artifact of this name.",
            f"GET /v1/jobs/{job_id}/artifacts lists what there is; a job has artifacts once it succeeded.",
        )
    return artifact


def report(session: Session, job_id: str) -> Artifact:
    """Return the artifact that is the job's report. Raises NotFound."""
    job = read(session, job_id)
    artifact = repository.find_artifact(session, job_id, QuantizeWork.result_file)
    if artifact is None:
        ended = JobState(job.state) in TERMINAL
        remedy = f"GET /v1/jobs/{job_id} says why." if ended else "Ask again when the job has ended."
        raise NotFound("report_not_ready", f"The job {job_id} is {job.state} and has no report.", remedy)
    return artifact


def attempts(session: Session, job_id: str, after: int = 0, limit: int = 1000) -> Sequence[Attempt]:
    """Return the runs of a job behind a token, in their order. Raises NotFound."""
    return repository.attempts(session, read_any(session, job_id).id, after, limit)


def table(session: Session, sweep: Job) -> Artifact | None:
    """Return the artifact that is a sweep's table; None before there is one."""
    return repository.find_artifact(session, sweep.id, SweepWork.result_file)


def waiting_for(session: Session, jobs: Sequence[Job]) -> dict[str, WaitingFor]:
    """Return what each queued job waits for, by id."""
    queued = [job for job in jobs if job.state == JobState.QUEUED]
    if not queued:
        return {}
    live, at = live_devices(session), clock(session)

    def reason(job: Job) -> WaitingFor:
        if job.device not in live:
            return "worker"
        return "pause" if job.not_before and job.not_before > at else "slot"

    return {job.id: reason(job) for job in queued}


def count_by_state(session: Session) -> dict[JobState, int]:
    """Return how many jobs are in each state."""
    counts = repository.count_by_state(session)
    return {state: counts.get(state, 0) for state in JobState}


def no_job(job_id: str, remedy: str = "GET /v1/jobs lists what there is.") -> NoReturn:
    """Raise NotFound for a job."""
    raise NotFound("job_not_found", f"There is no job {job_id}.", remedy)
