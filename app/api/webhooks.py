"""/v1/webhooks: where the project's events are sent, and what became of each. Admins alone come here."""

from datetime import datetime, timedelta
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from app.api.addresses import address
from app.api.answers import answer
from app.api.body_limit import LimitedRoute
from app.api.dependencies import PathName, ServicesDep, SessionDep
from app.api.openapi import problems
from app.api.paging import BeforeDep, LimitQuery, WordQuery, next_cursor
from app.api.requests import DELIVERY_PATTERN, SEEN_PATTERN, WebhookEvents, WebhookUrl
from app.api.schemas import Body
from app.webhooks import service
from app.webhooks.outbox import ENDS
from app.webhooks.sender import rules_of
from app.webhooks.states import DeliveryState

MOST_OVERLAP = 7 * 24 * 3600

Description = Annotated[str, StringConstraints(max_length=255, pattern=SEEN_PATTERN)]

DeliveryId = Annotated[str, StringConstraints(max_length=64, pattern=DELIVERY_PATTERN)]

router = APIRouter(prefix="/v1/webhooks", tags=["webhooks"], route_class=LimitedRoute)


class WebhookRequest(BaseModel):
    """A webhook to make."""

    model_config = ConfigDict(use_attribute_docstrings=True, frozen=True, extra="forbid")

    url: WebhookUrl
    """Where events are sent by POST: https, at a public address."""
    events: WebhookEvents = ENDS
    """Which types of events are sent."""
    description: Description = ""
    """What people call it."""


class WebhookChange(BaseModel):
    """What to change of a webhook; what is left out stays."""

    model_config = ConfigDict(use_attribute_docstrings=True, frozen=True, extra="forbid")

    url: WebhookUrl | None = None
    """Where events are sent from now on, also those that wait."""
    events: WebhookEvents | None = None
    """Which types of events are sent."""
    description: Description | None = None
    """What people call it."""
    enabled: bool | None = None
    """False: no event is kept for it, and what waits is not sent."""


class SecretRequest(BaseModel):
    """How a secret is replaced."""

    model_config = ConfigDict(use_attribute_docstrings=True, frozen=True, extra="forbid")

    overlap_seconds: Annotated[int, Field(ge=0, le=MOST_OVERLAP)] = 24 * 3600
    """How long the former secret signs beside the new one."""


class RedeliveryRequest(BaseModel):
    """What to send again."""

    model_config = ConfigDict(use_attribute_docstrings=True, frozen=True, extra="forbid")

    deliveries: Annotated[tuple[DeliveryId, ...] | None, Field(max_length=1000)] = None
    """Ids of deliveries that have ended; null: all dead ones."""


NEW_SECRET, ALL_DEAD = SecretRequest(), RedeliveryRequest()
"""Of requests without a body."""


class WebhookBody(Body):
    """Where events are sent, without the secret that signs them."""

    id: str
    url: str
    """Where events are sent."""
    description: str
    """What people call it."""
    events: list[str]
    """Which types of events are sent."""
    enabled: bool
    """Whether events are sent; a target that answers 410 ends it."""
    job: Annotated[str | None, Field(validation_alias="job_id")]
    """The id of the job that brought it along; null: it is the project's."""
    created_at: datetime
    failing_since: datetime | None
    """Since when every attempt failed; null: the last one succeeded, or there was none."""


class NewWebhookBody(WebhookBody):
    """A webhook with a secret that was just made."""

    secret: str
    """What signs. Nobody can read it again."""


class WebhookPage(Body):
    items: list[WebhookBody]
    next_cursor: str | None


class DeliveryBody(Body):
    """One event on its way to a webhook."""

    id: str
    """The webhook-id of its messages, the same at each attempt."""
    event: str
    """The type of the event."""
    job: Annotated[str, Field(validation_alias="job_id")]
    """The id of the job."""
    position: int
    """The event's place in the order of all events."""
    state: Literal["pending", "delivered", "dead"]
    """Dead: nobody took it for a day."""
    attempts: int
    """How often it was sent."""
    created_at: datetime
    """When the event was published."""
    due_at: datetime
    """When it is sent next, while it is pending."""
    ended_at: datetime | None
    """When it was delivered, or given up."""
    last_status: int | None
    """What the target answered last; null: nothing."""
    last_error: str | None
    """Why the last attempt failed."""


class DeliveryPage(Body):
    items: list[DeliveryBody]
    next_cursor: str | None


class RedeliveryBody(Body):
    """What is sent again."""

    deliveries: int
    """How many deliveries."""


@router.post("", response_model=NewWebhookBody, status_code=201, responses=problems(400, 409, 413, 422))
def create_webhook(session: SessionDep, services: ServicesDep, asked: WebhookRequest) -> Response:
    """Make a webhook; the answer alone shows its secret."""
    service.check_target(asked.url, rules_of(services.settings))
    return _shown(service.create(session, asked.url, asked.events, asked.description))


@router.get("", responses=problems(422))
def list_webhooks(
    session: SessionDep,
    before: BeforeDep,
    job: Annotated[WordQuery, Query(description="Those that this job brought along, not the project's.")] = None,
    limit: LimitQuery = 20,
) -> WebhookPage:
    """List webhooks, newest first."""
    rows = service.page(session, job, before, limit)
    return WebhookPage(items=[WebhookBody.model_validate(row) for row in rows], next_cursor=next_cursor(rows, limit))


@router.get("/{webhook_id}", responses=problems(404))
def read_webhook(session: SessionDep, webhook_id: PathName) -> WebhookBody:
    """Read a webhook, without its secret."""
    return WebhookBody.model_validate(service.read(session, webhook_id))


@router.patch("/{webhook_id}", responses=problems(400, 404, 413, 422))
def change_webhook(
    session: SessionDep, services: ServicesDep, webhook_id: PathName, asked: WebhookChange
) -> WebhookBody:
    """Change a webhook: its address, its events, or whether it is enabled."""
    changes = asked.model_dump(exclude_none=True, mode="json")
    if asked.url is not None:
        service.check_target(asked.url, rules_of(services.settings))
    return WebhookBody.model_validate(service.change(session, webhook_id, changes))


@router.delete("/{webhook_id}", status_code=204, responses=problems(404))
def delete_webhook(session: SessionDep, webhook_id: PathName) -> Response:
    """Delete a webhook, with all that was on its way there."""
    service.remove(session, webhook_id)
    return Response(status_code=204)


@router.post(
    "/{webhook_id}/rotate", response_model=NewWebhookBody, status_code=201, responses=problems(400, 404, 413, 422)
)
def rotate_webhook(session: SessionDep, webhook_id: PathName, asked: SecretRequest = NEW_SECRET) -> Response:
    """Make another secret; both sign during the overlap."""
    return _shown(service.rotate(session, webhook_id, timedelta(seconds=asked.overlap_seconds)))


@router.get("/{webhook_id}/deliveries", responses=problems(404, 422))
def list_deliveries(
    session: SessionDep,
    webhook_id: PathName,
    before: BeforeDep,
    state: Annotated[DeliveryState | None, Query(description="Only those in this state.")] = None,
    limit: LimitQuery = 20,
) -> DeliveryPage:
    """List what is on its way, was delivered in the last 3 days, or is dead, newest first."""
    rows = service.deliveries(session, webhook_id, state, before, limit)
    return DeliveryPage(items=[DeliveryBody.model_validate(row) for row in rows], next_cursor=next_cursor(rows, limit))


@router.post("/{webhook_id}/redeliver", status_code=202, responses=problems(400, 404, 413, 422))
def redeliver(session: SessionDep, webhook_id: PathName, asked: RedeliveryRequest = ALL_DEAD) -> RedeliveryBody:
    """Send deliveries again, under their ids: all dead ones, or those that are named."""
    return RedeliveryBody(deliveries=service.redeliver(session, webhook_id, asked.deliveries))


def _shown(made: service.NewSecret) -> Response:
    shown = WebhookBody.model_validate(made.row).model_dump(by_alias=False) | {"secret": made.secret}
    body = NewWebhookBody.model_validate({**shown, "job_id": shown["job"]})
    headers = {"Location": address(f"/v1/webhooks/{made.row.id}"), "Cache-Control": "no-store"}
    return answer(body, 201, **headers)
