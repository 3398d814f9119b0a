"""/v1/sweeps: several recipes on one model, calibrated once, and a table that compares them."""

from functools import partial
from typing import Annotated

from fastapi import APIRouter, Request, Response
from pydantic import AliasPath, Field, computed_field
from starlette.concurrency import run_in_threadpool

from app.api.addresses import address
from app.api.answers import answer
from app.api.bodies import bodies_of
from app.api.body_limit import LimitedRoute
from app.api.dependencies import PathName, Services, ServicesDep, SessionDep
from app.api.filters import RunFilterDep
from app.api.jobs import KeyHeader, submission_of, submit, submit_again
from app.api.openapi import problems
from app.api.paging import BeforeDep, LimitQuery, next_cursor
from app.api.presets import chosen_recipe
from app.api.requests import ChangeRequest, SweepRequest
from app.api.schemas import Body, RunBody
from app.jobs import queries, service
from app.jobs.kinds import JobKind
from app.jobs.work import SweepWork
from app.webhooks import outbox
from zeropoint.schema.sweep import SweepEntry, SweepReport, SweepRow


class SweepLinksBody(Body):
    self: str
    events: str
    attempts: str
    artifacts: str


class SweepSummaryBody(RunBody):
    """A sweep in a list; reading it shows its recipes and rows too."""

    @computed_field
    def links(self) -> SweepLinksBody:
        """Return the addresses of what belongs to the sweep: history and files are below those of a job."""
        below = {name: address(f"/v1/jobs/{self.id}/{name}") for name in ("events", "attempts", "artifacts")}
        return SweepLinksBody(self=address(f"/v1/sweeps/{self.id}"), **below)


class SweepBody(SweepSummaryBody):
    recipes: Annotated[list[SweepEntry], Field(validation_alias=AliasPath("sweep", "recipes"))]
    latency: Annotated[bool, Field(validation_alias=AliasPath("sweep", "latency"))]
    rows: Annotated[list[SweepRow] | None, Field(description="Null until the sweep has succeeded.")] = None
    pareto: Annotated[list[int] | None, Field(description="Positions of the rows that no other row beats.")] = None


class SweepPage(Body):
    items: list[SweepSummaryBody]
    next_cursor: str | None


router = APIRouter(prefix="/v1/sweeps", tags=["sweeps"], route_class=LimitedRoute)


@router.post("", response_model=SweepBody, status_code=202, responses=problems(400, 404, 413, 422))
async def submit_sweep(
    *, request: Request, services: ServicesDep, sweep_request: SweepRequest, idempotency_key: KeyHeader = None
) -> Response:
    """Submit a sweep. Each recipe is checked as a job's is; errors point at /recipes/{position}/…"""
    work = SweepWork(_entries(sweep_request), sweep_request.latency)
    submission = submission_of(sweep_request, work, idempotency_key, request.state.request_id)
    body = await submit(SweepBody, request, services, submission)
    return await run_in_threadpool(answer, body, 202, Location=address(f"/v1/sweeps/{body.id}"))


@router.get("", responses=problems(422))
def list_sweeps(session: SessionDep, before: BeforeDep, chosen: RunFilterDep, limit: LimitQuery = 20) -> SweepPage:
    """List sweeps, newest first, without their rows."""
    rows = queries.page(session, JobKind.SWEEP, chosen, before, limit)
    return SweepPage(items=bodies_of(SweepSummaryBody, session, rows), next_cursor=next_cursor(rows, limit))


@router.get("/{sweep_id}", response_model=SweepBody, responses=problems(404))
async def read_sweep(services: ServicesDep, sweep_id: PathName) -> Response:
    """Read a sweep: its state, phase and progress, and the table once it has succeeded."""
    body, table = await services.admission.reading.run(_read, services, sweep_id)
    if table is None:
        return await run_in_threadpool(answer, body)
    report = await services.admission.files.run(_report, services, table)
    body = body.model_copy(update={"rows": report.rows, "pareto": report.pareto})
    return await run_in_threadpool(answer, body)


@router.post("/{sweep_id}/cancel", response_model=SweepBody, status_code=202, responses=problems(404, 409))
def cancel_sweep(session: SessionDep, sweep_id: PathName) -> Response:
    """Stop a sweep. Asking again changes nothing; a sweep that has ended is refused."""
    service.request_cancel(session, queries.read_sweep(session, sweep_id).id)
    return answer(bodies_of(SweepBody, session, [queries.read_sweep(session, sweep_id)])[0], 202)


@router.post("/{sweep_id}/retry", response_model=SweepBody, status_code=202, responses=problems(404, 409, 422))
async def retry_sweep(
    request: Request, services: ServicesDep, sweep_id: PathName, idempotency_key: KeyHeader = None
) -> Response:
    """Submit the request of a sweep that has ended once more, as a new one, whose `retry_of` names this one."""
    read = partial(queries.read_sweep, sweep_id=sweep_id)
    body = await submit_again(SweepBody, request, services, read, idempotency_key)
    return await run_in_threadpool(answer, body, 202, Location=address(f"/v1/sweeps/{body.id}"))


@router.patch("/{sweep_id}", response_model=SweepBody, responses=problems(400, 404, 409, 413, 422))
def change_sweep(session: SessionDep, sweep_id: PathName, asked: ChangeRequest) -> Response:
    """Give a sweep other tags, or another priority while it is queued."""
    service.change(session, queries.read_sweep(session, sweep_id).id, asked.tags, asked.priority)
    return answer(bodies_of(SweepBody, session, [queries.read_sweep(session, sweep_id)])[0])


@router.delete("/{sweep_id}", status_code=204, responses=problems(404, 409))
def delete_sweep(session: SessionDep, sweep_id: PathName) -> Response:
    """Delete a sweep that has ended, with its history and table."""
    sweep_id = queries.read_sweep(session, sweep_id).id
    outbox.publish(session)  # its last events are on their way to webhooks before they go with it
    service.forget(session, sweep_id)
    return Response(status_code=204)


def _read(services: Services, sweep_id: str) -> tuple[SweepBody, str | None]:
    """Return a sweep, and the digest of its table if there is one."""
    with services.sessions() as session:
        sweep = queries.read_sweep(session, sweep_id)
        (body,) = bodies_of(SweepBody, session, [sweep])
        table = queries.table(session, sweep)
        return body, table.sha256 if table else None


def _report(services: Services, sha256: str) -> SweepReport:
    return SweepReport.model_validate_json(b"".join(services.storage.open(sha256)))


def _entries(sweep_request: SweepRequest) -> tuple[SweepEntry, ...]:
    return tuple(
        SweepEntry(
            name=entry.name or entry.preset or f"recipe {position}",
            preset=entry.preset,
            recipe=chosen_recipe(entry.recipe, entry.preset, f"/recipes/{position}"),
        )
        for position, entry in enumerate(sweep_request.recipes)
    )
