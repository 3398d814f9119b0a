"""All SQL about models and datasets. Nothing here commits."""

from collections.abc import Sequence
from typing import TypeVar

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.catalog.models import Dataset, Model

Upload = TypeVar("Upload", Model, Dataset)


def find(session: Session, table: type[Upload], upload_id: str) -> Upload | None:
    """Return one upload."""
    return session.get(table, upload_id)


def hold(session: Session, table: type[Upload], upload_id: str) -> Upload | None:
    """Return one upload and keep it from being deleted until the transaction ends."""
    return session.get(table, upload_id, with_for_update={"read": True})


def lock(session: Session, table: type[Upload], upload_id: str) -> Upload | None:
    """Return one upload and wait for every transaction that holds it."""
    return session.get(table, upload_id, with_for_update=True)


def page(session: Session, table: type[Upload], before: str | None, limit: int) -> Sequence[Upload]:
    """Return uploads, newest first, older than the id `before`."""
    query = select(table).order_by(table.id.desc()).limit(limit)
    if before is not None:
        query = query.where(table.id < before)
    return session.scalars(query).all()
