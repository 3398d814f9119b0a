"""All SQL about models and datasets. Nothing here commits."""

from collections.abc import Sequence
from typing import TypeVar

from sqlalchemy import select
from sqlalchemy.orm import Session, undefer_group

from app.catalog.models import CONTENTS, Dataset, Model

Upload = TypeVar("Upload", Model, Dataset)


def find(session: Session, table: type[Upload], upload_id: str) -> Upload | None:
    """Return one upload."""
    return session.get(table, upload_id)


def find_whole(session: Session, table: type[Upload], upload_id: str) -> Upload | None:
    """Return one upload with its contents, in one query: another may delete it before the next."""
    return session.get(table, upload_id, options=[undefer_group(CONTENTS)], populate_existing=True)


def hold(session: Session, table: type[Upload], upload_id: str) -> bool:
    """Keep an upload from being deleted until the transaction ends; return whether there is one."""
    query = select(table.id).where(table.id == upload_id).with_for_update(read=True)
    return session.scalar(query) is not None


def lock(session: Session, table: type[Upload], upload_id: str) -> Upload | None:
    """Return one upload and wait for every transaction that holds it."""
    return session.get(table, upload_id, with_for_update=True)


def page(session: Session, table: type[Upload], before: str | None, limit: int) -> Sequence[Upload]:
    """Return uploads, newest first, older than the id `before`."""
    query = select(table).order_by(table.id.desc()).limit(limit)
    if before is not None:
        query = query.where(table.id < before)
    return session.scalars(query).all()
