"""/v1/jobs: submit, list, read, cancel, change, delete, submit again, history."""

import re
from collections.abc import Callable
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Header, Query, Request, Response
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool

from app import logs
from app.accounts.quotas import Quotas
from app.api.addresses import address
from app.api.answers import answer
from app.api.bodies import SomeBody, bodies_of
from app.api.body_limit import LimitedRoute
from app.api.dependencies import PathName, Services, ServicesDep, SessionDep
from app.api.filters import JobFilterDep
from app.api.openapi import problems
from app.api.paging import BeforeDep, LimitQuery, next_cursor
from app.api.presets import chosen_recipe
from app.api.requests import WORD_PATTERN, ChangeRequest, JobRequest, RunRequest
from app.api.schemas import (
    AttemptBody,
    AttemptPage,
    JobBody,
    JobPage,
    JobSummaryBody,
)
from app.jobs import queries, service
from app.jobs.kinds import JobKind
from app.jobs.submission import Admitted, Submission
from app.jobs.work import QuantizeWork, Work
from app.webhooks import outbox
from app.webhooks.sender import rules_of
from app.webhooks.service import check_target

MAX_WAIT_SECONDS = 60

_WAIT = re.compile(r"(?:^|[,;])\s*wait\s*=\s*(\d{1,6})\s*(?:$|[,;])", re.IGNORECASE)

router = APIRouter(prefix="/v1/jobs", tags=["jobs"], route_class=LimitedRoute)

KeyHeader = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=255,
        pattern=WORD_PATTERN,
        description="A request that is repeated with its key creates no second job.",
    ),
]
PreferHeader = Annotated[
    str | None, Header(description=f"wait=N: answer when the job has ended, or after N s (at most {MAX_WAIT_SECONDS}).")
]


async def submit_again(
    kind: type[SomeBody],
    request: Request,
    services: Services,
    read: Callable[[Session], queries.JobRow],
    key: str | None,
) -> SomeBody:
    """Submit the request of a job or sweep that has ended once more, and return the new one. Raises ServiceError."""
    submission = await services.admission.whole.run(_same_again, services, read, key, request.state.request_id)
    return await submit(kind, request, services, submission)


def _same_again(
    services: Services, read: Callable[[Session], queries.JobRow], key: str | None, request_id: str
) -> Submission:
    with services.sessions() as session:
        return service.retry(read(session), key, request_id)


def submission_of(request: RunRequest, work: Work, key: str | None, request_id: str) -> Submission:
    """Return what a request asks for."""
    return Submission(
        model=request.model,
        work=work,
        dataset=request.dataset,
        evaluation_dataset=request.evaluation_dataset,
        device=request.device,
        tags=request.tags,
        priority=request.priority,
        owner=request.owner,
        pending_seconds=request.limits.pending_seconds,
        running_seconds=request.limits.running_seconds,
        idempotency_key=key,
        request_id=request_id,
        webhook=request.webhook.model_dump(mode="json") if request.webhook else None,
    )


async def submit(kind: type[SomeBody], request: Request, services: Services, submission: Submission) -> SomeBody:
    """Accept a job or a sweep, have it looked for, and return its body. Raises ServiceError."""
    prepared: SomeBody | Admitted = await services.admission.whole.run(_prepare, kind, services, submission)
    if not isinstance(prepared, Admitted):
        return prepared
    body: SomeBody = await services.admission.writing.run(_accept, kind, services, prepared, request.state.quotas)
    services.wake()
    return body


def _prepare(kind: type[SomeBody], services: Services, submission: Submission) -> SomeBody | Admitted:
    if submission.webhook:
        check_target(submission.webhook["url"], rules_of(services.settings), "/webhook/url")
    with services.sessions() as session:
        prepared = service.prepare(session, submission)
        return prepared if isinstance(prepared, Admitted) else _accepted(kind, session, prepared)


def _accept(kind: type[SomeBody], services: Services, admitted: Admitted, quotas: Quotas) -> SomeBody:
    with services.sessions() as session:
        return _accepted(kind, session, service.accept(session, admitted, services.most_seconds, quotas))


def _accepted(kind: type[SomeBody], session: Session, job: queries.JobRow) -> SomeBody:
    logs.also(job_id=job.id, owner=job.owner, model_id=job.model_id)
    (body,) = bodies_of(kind, session, [job])
    return body


@router.post("", response_model=JobBody, status_code=202, responses=problems(400, 404, 413, 422))
async def submit_job(
    *,
    request: Request,
    services: ServicesDep,
    job_request: JobRequest,
    idempotency_key: KeyHeader = None,
    prefer: PreferHeader = None,
) -> Response:
    """Submit a job. The dataset's names, dtypes and shapes, and the recipe's layer names, are checked first."""
    work = QuantizeWork(chosen_recipe(job_request.recipe, job_request.preset))
    submission = submission_of(job_request, work, idempotency_key, request.state.request_id)
    job = await submit(JobBody, request, services, submission)
    headers = {"Location": address(f"/v1/jobs/{job.id}")}
    size = len(await request.body())
    if (seconds := _wait_seconds(prefer)) and services.waits.has_room(size):
        headers["Preference-Applied"] = f"wait={seconds}"
        job = await services.waits.ended(job, seconds, request.receive, request.app.state.stopping, size)
    return await run_in_threadpool(answer, job, 202, **headers)


@router.get("", responses=problems(422))
def list_jobs(session: SessionDep, before: BeforeDep, chosen: JobFilterDep, limit: LimitQuery = 20) -> JobPage:
    """List jobs, newest first."""
    rows = queries.page(session, JobKind.QUANTIZE, chosen, before, limit)
    return JobPage(items=bodies_of(JobSummaryBody, session, rows), next_cursor=next_cursor(rows, limit))


@router.get("/{job_id}", response_model=JobBody, responses=problems(404))
def read_job(session: SessionDep, job_id: PathName) -> Response:
    """Read a job: its state, phase and progress."""
    return answer(_body(session, queries.read(session, job_id)))


@router.get("/{job_id}/attempts", responses=problems(404, 422))
def list_attempts(
    session: SessionDep,
    job_id: PathName,
    after: Annotated[
        int, Query(ge=0, lt=2**31, description="The last token that the client has; later ones are returned.")
    ] = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 1000,
) -> AttemptPage:
    """Read the runs of a job, oldest first: by whom, since when, and how each ended."""
    rows = queries.attempts(session, job_id, after, limit)
    return AttemptPage(items=[AttemptBody.model_validate(row) for row in rows])


@router.post("/{job_id}/cancel", response_model=JobBody, status_code=202, responses=problems(404, 409))
def cancel_job(session: SessionDep, job_id: PathName) -> Response:
    """Stop a job. Asking again changes nothing; a job that has ended is refused."""
    service.request_cancel(session, queries.read(session, job_id).id)
    return answer(_body(session, queries.read(session, job_id)), 202)


@router.post("/{job_id}/retry", response_model=JobBody, status_code=202, responses=problems(404, 409, 422))
async def retry_job(
    request: Request, services: ServicesDep, job_id: PathName, idempotency_key: KeyHeader = None
) -> Response:
    """Submit the request of a job that has ended once more, as a new job, whose `retry_of` names this one."""
    job = await submit_again(JobBody, request, services, partial(queries.read, job_id=job_id), idempotency_key)
    return await run_in_threadpool(answer, job, 202, Location=address(f"/v1/jobs/{job.id}"))


@router.patch("/{job_id}", response_model=JobBody, responses=problems(400, 404, 409, 413, 422))
def change_job(session: SessionDep, job_id: PathName, asked: ChangeRequest) -> Response:
    """Give a job other tags, or another priority while it is queued."""
    service.change(session, queries.read(session, job_id).id, asked.tags, asked.priority)
    return answer(_body(session, queries.read(session, job_id)))


@router.delete("/{job_id}", status_code=204, responses=problems(404, 409))
def delete_job(session: SessionDep, job_id: PathName) -> Response:
    """Delete a job that has ended, with its history and files."""
    job_id = queries.read(session, job_id).id
    outbox.publish(session)  # its last events are on their way to webhooks before they go with it
    service.forget(session, job_id)
    return Response(status_code=204)


def _body(session: Session, job: queries.JobRow) -> JobBody:
    return bodies_of(JobBody, session, [job])[0]


def _wait_seconds(prefer: str | None) -> int:
    match = _WAIT.search(prefer or "")
    return min(int(match[1]), MAX_WAIT_SECONDS) if match else 0
