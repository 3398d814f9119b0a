"""The outbox: each published event becomes a delivery for each webhook that asks for it, in the same transaction."""

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Literal

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.database import clock, new_id
from app.jobs import publishing
from app.jobs.publishing import EventRow, JobRow
from app.webhooks.models import Delivery, Webhook
from app.webhooks.states import DeliveryState

EventType = Literal[
    "job.queued", "job.running", "job.cancelling", "job.succeeded", "job.failed", "job.cancelled", "job.phase"
]
"""The types of events; those of sweeps are named alike."""
ENDS: tuple[EventType, ...] = ("job.succeeded", "job.failed", "job.cancelled")


def publish(session: Session) -> int:
    """Publish the events that wait for it, with their deliveries; return how many these were."""
    return publishing.publish(session, add_deliveries)


def add_deliveries(session: Session, events: Sequence[EventRow]) -> None:
    """Add the deliveries of events, in the transaction that publishes these."""
    jobs = publishing.jobs_of(session, events)
    at = clock(session)
    of_projects = session.scalars(
        select(Webhook).where(
            Webhook.enabled, Webhook.job_id.is_(None), Webhook.project.in_({event.project for event in events})
        )
    ).all()
    of_jobs = {job.id: _webhook_of(session, job, at) for job in jobs.values() if job.webhook}
    for event in events:
        candidates = [*of_projects, *filter(None, [of_jobs.get(event.job_id)])]
        for webhook in candidates:
            if webhook.project == event.project and webhook.enabled and type_of(event) in webhook.events:
                session.add(_delivery(webhook, event, jobs[event.job_id], at))


def type_of(event: EventRow) -> str:
    """Return the type of an event, such as job.succeeded."""
    return f"job.{event.data['state'] if event.kind == 'state' else event.kind}"


def _webhook_of(session: Session, job: JobRow, at: datetime) -> Webhook:
    """Return the webhook that a job brought along; it is written with the first of its events."""
    found = session.scalar(select(Webhook).where(Webhook.job_id == job.id))
    if found is None and job.webhook is not None:
        found = Webhook(project=job.project, id=new_id("whk", at), job_id=job.id, created_at=at, **job.webhook)
        found.enabled = True
        session.add(found)
        session.flush()
    assert found is not None
    return found


def _delivery(webhook: Webhook, event: EventRow, job: JobRow, at: datetime) -> Delivery:
    facts = {
        "job": job.id,
        "kind": job.kind,
        "model": job.model_id,
        "tags": job.tags,
        "owner": job.owner,
        "project": job.project,
        "seq": event.seq,
        "position": event.position,
    }
    body = {"type": type_of(event), "timestamp": event.at.isoformat(), "data": facts | event.data}
    return Delivery(
        project=webhook.project,
        id=new_id("dlv", at),
        webhook_id=webhook.id,
        job_id=job.id,
        event=type_of(event),
        position=event.position,
        body=json.dumps(body, ensure_ascii=False, separators=(",", ":")),
        state=DeliveryState.PENDING,
        created_at=at,
        begun_at=at,
        due_at=at,
    )
