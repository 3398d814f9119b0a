"""Deliveries: claimed with a lease, so that one process at a time sends each, and recorded. Each is one transaction."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, Select, Update, and_, delete, func, or_, select, update
from sqlalchemy.orm import Session

from app.accounts import audit
from app.accounts.caller import Caller, Role
from app.database import begin_writing, clock
from app.webhooks.models import Delivery, Webhook
from app.webhooks.states import DAY, DeliveryState, pause_after

KEEP_DELIVERED = timedelta(days=3)
KEEP_DEAD = timedelta(days=30)
MOST_ERROR = 512


@dataclass(frozen=True)
class Claimed:
    """A delivery that this process sends now: what, to where, signed by whom. `attempt` tells it from later ones."""

    id: str
    attempt: int
    webhook_id: str
    url: str
    body: bytes
    secrets: tuple[str, ...]
    at: datetime


@dataclass(frozen=True)
class Lane:
    """Which webhooks a claim is for: those that answer well, or those that are slow or fail."""

    slow: bool
    most: int
    """How many deliveries to claim in all,"""
    most_each: int
    """and of one webhook."""
    known_slow: Collection[str]
    """Webhooks that took long the last time."""
    busy: Collection[str]
    """Webhooks that have as many deliveries under way as they may."""


def claim(session: Session, lane: Lane, lease: timedelta) -> list[Claimed]:
    """Claim deliveries that are due, for as long as the lease. A process that dies leaves them to others then."""
    if lane.most <= 0 or session.scalar(_due(lane, clock(session)).limit(1)) is None:
        session.rollback()
        return []
    begin_writing(session)
    at = clock(session)
    due = _due(lane, at).subquery()
    chosen = select(due.c.id).where(due.c.place <= lane.most_each).order_by(due.c.due_at).limit(lane.most)
    query = select(Delivery, Webhook).join(Webhook).where(Delivery.id.in_(chosen), _is_due(at))
    rows = session.execute(query.with_for_update(of=Delivery, skip_locked=True)).all()
    claimed = []
    for delivery, webhook in rows:
        delivery.attempts += 1
        delivery.due_at = at + lease
        secrets = [webhook.secret, *_former(webhook, at)]
        claimed.append(
            Claimed(
                *(delivery.id, delivery.attempts, webhook.id, webhook.url, delivery.body.encode()),
                secrets=tuple(secrets),
                at=at,
            )
        )
    session.commit()
    return claimed


def record_delivered(session: Session, claimed: Claimed, status: int) -> None:
    """Record that the target took it."""
    begin_writing(session)
    at = clock(session)
    ended = {"state": DeliveryState.DELIVERED, "ended_at": at, "last_status": status, "last_error": None}
    session.execute(_own(claimed).values(ended))
    recovered = (Webhook.id == claimed.webhook_id, Webhook.failing_since.is_not(None))
    session.execute(update(Webhook).where(*recovered).values(failing_since=None))
    session.commit()


def record_failed(
    session: Session, claimed: Claimed, error: str, status: int | None = None, asked: timedelta | None = None
) -> None:
    """Record a failure: it is tried again after a pause, or dead after a day. 410 (Gone) disables the webhook."""
    begin_writing(session)
    at = clock(session)
    delivery = session.get(Delivery, claimed.id, with_for_update=True, populate_existing=True)
    if delivery is None or delivery.attempts != claimed.attempt or delivery.state != DeliveryState.PENDING:
        session.rollback()
        return
    delivery.last_error, delivery.last_status = error[:MOST_ERROR], status
    delivery.due_at = at + pause_after(at - delivery.begun_at, asked)
    gone = status == 410
    if gone or delivery.due_at > delivery.begun_at + DAY:
        delivery.state, delivery.ended_at = DeliveryState.DEAD, at
    webhook = session.get_one(Webhook, claimed.webhook_id, populate_existing=True)
    webhook.failing_since = webhook.failing_since or at
    if gone and webhook.enabled:
        webhook.enabled = False
        audit.record(session, "webhook.disabled", webhook.id, Caller(webhook.project, Role.ADMIN, "its target"))
    session.commit()


def tidy(session: Session) -> None:
    """Give up what nobody took for a day, also of disabled webhooks, and forget what ended long ago."""
    begin_writing(session)
    at = clock(session)
    given_up = {"state": DeliveryState.DEAD, "ended_at": at}
    late = (Delivery.state == DeliveryState.PENDING, Delivery.begun_at < at - DAY, Delivery.due_at <= at)
    session.execute(update(Delivery).where(*late).values(given_up), execution_options={"synchronize_session": False})
    for state, keep in ((DeliveryState.DELIVERED, KEEP_DELIVERED), (DeliveryState.DEAD, KEEP_DEAD)):
        session.execute(delete(Delivery).where(Delivery.state == state, Delivery.ended_at < at - keep))
    used = select(Delivery.id).where(Delivery.webhook_id == Webhook.id).exists()
    session.execute(delete(Webhook).where(Webhook.job_id.is_not(None), Webhook.created_at < at - KEEP_DEAD, ~used))
    session.commit()


def _own(claimed: Claimed) -> Update:
    return update(Delivery).where(
        Delivery.id == claimed.id, Delivery.attempts == claimed.attempt, Delivery.state == DeliveryState.PENDING
    )


def _due(lane: Lane, at: datetime) -> Select[tuple[str, datetime, int]]:
    """Select deliveries that are due in a lane, each with its place among those of its webhook."""
    place = func.row_number().over(partition_by=Delivery.webhook_id, order_by=(Delivery.due_at, Delivery.id))
    is_slow = or_(Webhook.failing_since.is_not(None), Webhook.id.in_(lane.known_slow))
    return (
        select(Delivery.id, Delivery.due_at, place.label("place"))
        .join(Webhook)
        .where(_is_due(at), Webhook.enabled, Webhook.id.not_in(lane.busy), is_slow if lane.slow else ~is_slow)
    )


def _is_due(at: datetime) -> ColumnElement[bool]:
    return and_(Delivery.state == DeliveryState.PENDING, Delivery.due_at <= at)


def _former(webhook: Webhook, at: datetime) -> list[str]:
    holds = webhook.former_until is not None and at < webhook.former_until
    return [webhook.former_secret] if holds and webhook.former_secret else []
