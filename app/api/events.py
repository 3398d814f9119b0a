"""/v1/events and /v1/jobs/{job_id}/events: what happened, as pages, or as server-sent events while it happens."""

from collections.abc import Sequence
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request, Response
from starlette.concurrency import run_in_threadpool

from app.accounts.caller import ANYONE, Caller, caller
from app.api.answers import answer
from app.api.dependencies import PathName, Services, ServicesDep
from app.api.event_stream import EVENT_STREAM, HEARTBEAT, HEARTBEAT_SECONDS, EventStream, Write, asks_for_events, frame
from app.api.feed import Listener
from app.api.openapi import problems
from app.api.schemas import EventBody, EventPage, ProjectEventBody, ProjectEventPage
from app.jobs import publishing, queries
from app.jobs.status import TERMINAL, JobState

PAGE = 500
"""Events that are read at once for those who come back."""
MOST_POSITION = 2**63

_STREAM: dict[int | str, dict[str, Any]] = {
    200: {"content": {EVENT_STREAM: {"schema": {"type": "string"}}}},
}
_ENDED: dict[int | str, dict[str, Any]] = {
    204: {"description": "The job has ended, and all of its events were sent: there is nothing to wait for."},
}

LimitQuery = Annotated[int, Query(ge=1, le=1000)]
LAST_ID = "The id of the last event that the client has, where it asks for server-sent events; later ones are sent."
AcceptHeader = Annotated[str | None, Header(include_in_schema=False)]

router = APIRouter(tags=["events"])


@router.get("/v1/jobs/{job_id}/events", response_model=EventPage, responses={**_STREAM, **_ENDED, **problems(404, 422)})
async def list_events(
    *,
    request: Request,
    services: ServicesDep,
    job_id: PathName,
    after: Annotated[
        int, Query(ge=0, lt=2**31, description="The last seq that the client has; later ones are returned.")
    ] = 0,
    limit: LimitQuery = 1000,
    last_event_id: Annotated[int | None, Header(ge=0, lt=2**31, description=LAST_ID)] = None,
    accept: AcceptHeader = None,
) -> Response:
    """Read a job's history, oldest first; or follow it to its end as server-sent events (Accept: text/event-stream)."""
    if not asks_for_events(accept):
        page, _ = await services.admission.reading.run(_of_job, services, job_id, after, limit)
        return await run_in_threadpool(answer, EventPage(items=page))
    after = after if last_event_id is None else last_event_id
    page, ended = await services.admission.reading.run(_of_job, services, job_id, after, 1)
    if ended and not page:
        return Response(status_code=204)
    await services.feed.begin()
    return EventStream(partial(_follow_job, services, job_id, after), request.app.state.stopping)


@router.get("/v1/events", response_model=ProjectEventPage, responses={**_STREAM, **problems(422)})
async def list_project_events(
    *,
    request: Request,
    services: ServicesDep,
    after: Annotated[
        int | None,
        Query(
            ge=0,
            lt=MOST_POSITION,
            description="The last position that the client has; later ones are returned. A page begins with the oldest "
            "by default, server-sent events with the next one that happens.",
        ),
    ] = None,
    limit: LimitQuery = 1000,
    last_event_id: Annotated[int | None, Header(ge=0, lt=MOST_POSITION, description=LAST_ID)] = None,
    accept: AcceptHeader = None,
) -> Response:
    """Read what happened in the project, oldest first; or follow it as server-sent events (as for a job)."""
    if not asks_for_events(accept):
        await services.feed.publish()
        items = await services.admission.reading.run(_of_project, services, after or 0, limit)
        return await run_in_threadpool(answer, ProjectEventPage(items=items))
    after = after if last_event_id is None else last_event_id
    await services.feed.begin()
    return EventStream(partial(_follow_project, services, after), request.app.state.stopping)


async def _follow_job(services: Services, job_id: str, after: int, write: Write) -> None:
    """Write a job's events behind a number, until it has ended."""
    async with services.feed.listening(_who(), job_id) as listener:
        while True:
            page, ended = await services.admission.reading.run(_of_job, services, job_id, after, PAGE)
            after, last = await _write_job(write, page, after)
            if last or (ended and len(page) < PAGE):
                return
            if len(page) < PAGE:
                break
        while not listener.ended:
            after, last = await _write_job(write, await _heard(listener, write), after)
            if last:
                return


async def _follow_project(services: Services, after: int | None, write: Write) -> None:
    """Write the project's events behind a position, or those to come, for ever."""
    async with services.feed.listening(_who()) as listener:
        position = listener.since if after is None else min(after, listener.since)
        while position < listener.since:
            read = services.admission.reading.run
            page = await read(_of_project, services, position, PAGE, listener.since)
            await _write_project(write, page)
            if len(page) < PAGE:
                break
            position = page[-1].position
        while not listener.ended:
            await _write_project(write, await _heard(listener, write))


async def _heard(listener: Listener, write: Write) -> Sequence[ProjectEventBody]:
    events = await listener.heard(HEARTBEAT_SECONDS)
    if not events and not listener.ended:
        await write(HEARTBEAT)
    return events


async def _write_job(write: Write, events: Sequence[EventBody], after: int) -> tuple[int, bool]:
    """Write those that come behind a number; return the last number, and whether the job has ended with it.

    What was read from the database is heard again, when it is published after it was read.
    """
    for event in events:
        if event.seq > after:
            body = EventBody(seq=event.seq, at=event.at, kind=event.kind, data=event.data)  # what a page has
            await write(frame(event.seq, event.kind, body))
            after = event.seq
            if event.kind == "state" and event.data["state"] in TERMINAL:
                return after, True
    return after, False


async def _write_project(write: Write, events: Sequence[ProjectEventBody]) -> None:
    for event in events:
        await write(frame(event.position, event.kind, event))


def _of_job(services: Services, job_id: str, after: int, limit: int) -> tuple[list[EventBody], bool]:
    """Return a page of a job's events, and whether it had ended before they were read. Raises NotFound."""
    with services.sessions() as session:
        ended = JobState(queries.read_any(session, job_id).state) in TERMINAL
        return [EventBody.model_validate(row) for row in queries.events(session, job_id, after, limit)], ended


def _of_project(services: Services, after: int, limit: int, until: int | None = None) -> list[ProjectEventBody]:
    with services.sessions() as session:
        return [ProjectEventBody.model_validate(row) for row in publishing.published(session, after, limit, until)]


def _who() -> Caller:
    return caller() or ANYONE
