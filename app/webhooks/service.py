"""What an admin may do with webhooks. Each is one transaction."""

from collections.abc import Collection, Sequence
from datetime import timedelta
from typing import Any, NamedTuple

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from app.accounts import audit
from app.accounts.caller import project_of_caller
from app.database import begin_writing, clock, new_id
from app.errors import Conflict, Fault, Invalid, NotFound
from app.outbound import AddressRefused, Rules, check_url
from app.webhooks.models import Delivery, Webhook
from app.webhooks.signing import new_secret
from app.webhooks.states import DeliveryState

WebhookRow = Webhook
DeliveryRow = Delivery
"""For annotations of those who may not name the tables."""

MOST_WEBHOOKS = 100
"""Of a project, beside those that jobs bring along."""


class NewSecret(NamedTuple):
    """A webhook, and its secret, which nobody can read again."""

    row: Webhook
    secret: str


def check_target(url: str, rules: Rules, pointer: str = "/url") -> None:
    """Raise Invalid for a URL that the service does not call."""
    try:
        check_url(url, rules)
    except AddressRefused as refused:
        remedy = "Name an https URL at a public address. The operator can allow others: "
        remedy += "ZEROPOINT_WEBHOOK_PRIVATE_ADDRESSES."
        raise Invalid("webhook_url_refused", str(refused), remedy, [Fault(pointer, str(refused))]) from refused


def create(session: Session, url: str, events: Sequence[str], description: str = "") -> NewSecret:
    """Make a webhook of the project. Raises Conflict where there are as many as may be."""
    begin_writing(session)
    own = select(func.count()).select_from(Webhook).where(Webhook.job_id.is_(None))
    if (session.scalar(own) or 0) >= MOST_WEBHOOKS:
        detail = f"The project has {MOST_WEBHOOKS} webhooks, which is the most."
        raise Conflict("webhooks_too_many", detail, "Delete one that nobody needs.")
    at, secret = clock(session), new_secret()
    row = Webhook(
        project=project_of_caller(),
        id=new_id("whk", at),
        url=url,
        description=description,
        events=[*events],
        secret=secret,
        created_at=at,
    )
    session.add(row)
    audit.record(session, "webhook.created", row.id)
    session.commit()
    return NewSecret(row, secret)


def read(session: Session, webhook_id: str) -> Webhook:
    """Return a webhook. Raises NotFound."""
    row = session.scalar(select(Webhook).where(Webhook.id == webhook_id))
    if row is None:
        detail = f"There is no webhook {webhook_id}."
        raise NotFound("webhook_not_found", detail, "GET /v1/webhooks lists what there is.")
    return row


def page(session: Session, job_id: str | None, before: str | None, limit: int) -> Sequence[Webhook]:
    """Return the project's webhooks, or those that a job brought along, newest first, older than the id `before`."""
    query = select(Webhook).where(Webhook.job_id == job_id).order_by(Webhook.id.desc()).limit(limit)
    return session.scalars(query if before is None else query.where(Webhook.id < before)).all()


def change(session: Session, webhook_id: str, changes: dict[str, Any]) -> Webhook:
    """Change a webhook. Raises NotFound."""
    begin_writing(session)
    row = read(session, webhook_id)
    for name, value in changes.items():
        setattr(row, name, value)
    audit.record(session, "webhook.changed", row.id)
    session.commit()
    return row


def rotate(session: Session, webhook_id: str, overlap: timedelta) -> NewSecret:
    """Give a webhook another secret; the former one signs too during the overlap. Raises NotFound."""
    begin_writing(session)
    row, secret = read(session, webhook_id), new_secret()
    row.former_secret, row.former_until = row.secret, clock(session) + overlap
    row.secret = secret
    audit.record(session, "webhook.rotated", row.id)
    session.commit()
    return NewSecret(row, secret)


def remove(session: Session, webhook_id: str) -> None:
    """Delete a webhook, with all that was on its way there. Raises NotFound."""
    begin_writing(session)
    session.delete(read(session, webhook_id))
    audit.record(session, "webhook.deleted", webhook_id)
    session.commit()


def deliveries(
    session: Session, webhook_id: str, state: DeliveryState | None, before: str | None, limit: int
) -> Sequence[Delivery]:
    """Return deliveries of a webhook, newest first, older than the id `before`. Raises NotFound."""
    query = select(Delivery).where(Delivery.webhook_id == read(session, webhook_id).id)
    if state is not None:
        query = query.where(Delivery.state == state)
    if before is not None:
        query = query.where(Delivery.id < before)
    return session.scalars(query.order_by(Delivery.id.desc()).limit(limit)).all()


def redeliver(session: Session, webhook_id: str, ids: Collection[str] | None) -> int:
    """Send deliveries that have ended again, under their ids; None: all dead ones. Return how many. Raises NotFound."""
    begin_writing(session)
    webhook = read(session, webhook_id)
    at = clock(session)
    query = update(Delivery).where(Delivery.webhook_id == webhook.id)
    if ids is None:
        query = query.where(Delivery.state == DeliveryState.DEAD)
    else:
        _require(session, webhook_id, ids)
        query = query.where(Delivery.id.in_(ids), Delivery.state != DeliveryState.PENDING)
    again = {"state": DeliveryState.PENDING, "begun_at": at, "due_at": at, "ended_at": None}
    count = len(session.scalars(query.values(again).returning(Delivery.id)).all())
    audit.record(session, "webhook.redelivered", webhook_id)
    session.commit()
    return count


def _require(session: Session, webhook_id: str, ids: Collection[str]) -> None:
    known = set(
        session.scalars(select(Delivery.id).where(Delivery.webhook_id == webhook_id, Delivery.id.in_(ids))).all()
    )
    if missing := sorted(set(ids) - known):
        detail = f"The webhook {webhook_id} has no delivery {missing[0]}."
        remedy = f"GET /v1/webhooks/{webhook_id}/deliveries lists what there is."
        raise NotFound("delivery_not_found", detail, remedy, [Fault("/deliveries", detail)])
