"""The audit trail: who did what, as rows that are written with the change itself, and as log lines."""

import logging
from collections.abc import Collection, Sequence
from datetime import datetime

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app import logs
from app.accounts.caller import ANYONE, Caller, caller
from app.accounts.models import AuditEntry
from app.database import clock

AuditRow = AuditEntry
"""For annotations of those who may not name the tables."""

log = logging.getLogger(__name__)


def record(session: Session, action: str, target: str, who: Caller | None = None) -> None:
    """Add an entry in the caller's transaction: it is there exactly if the change is. Nothing here commits."""
    who = who or caller() or ANYONE
    entry = AuditEntry(
        project=who.project,
        at=clock(session),
        actor=who.actor,
        action=action,
        target=target,
        request_id=logs.bound("request_id"),
    )
    session.add(entry)
    log.info("audit", extra=logs.fields(action=action, target=target, actor=who.actor, project=who.project))


def count(session: Session, actions: Collection[str], since: datetime) -> int:
    """Return how often the caller's project did one of these since a time."""
    done = select(func.count()).select_from(AuditEntry).where(AuditEntry.action.in_(actions), AuditEntry.at > since)
    return session.scalar(done) or 0


def newest(session: Session, actions: Collection[str], position: int) -> datetime | None:
    """Return when the caller's project did one of these for the last time (position 0), before that (1), and so on."""
    times = select(AuditEntry.at).where(AuditEntry.action.in_(actions)).order_by(AuditEntry.at.desc())
    return session.scalar(times.offset(position).limit(1))


def page(session: Session, before: int | None, limit: int) -> Sequence[AuditEntry]:
    """Return entries of the caller's project, newest first, older than the number `before`."""
    query = select(AuditEntry).order_by(AuditEntry.seq.desc()).limit(limit)
    return session.scalars(query if before is None else query.where(AuditEntry.seq < before)).all()
