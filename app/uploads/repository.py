"""All SQL about uploads that come in parts. Nothing here commits."""

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import CursorResult, delete, func, or_, select, update
from sqlalchemy.orm import Session

from app.uploads.models import ResumableUpload, UploadPart
from app.uploads.status import ENDED, UploadState


def find(session: Session, upload_id: str) -> ResumableUpload | None:
    """Return one upload, as it is now."""
    return session.get(ResumableUpload, upload_id, populate_existing=True)


def page(session: Session, before: str | None, limit: int) -> Sequence[ResumableUpload]:
    """Return uploads, newest first, older than the id `before`."""
    query = select(ResumableUpload).order_by(ResumableUpload.id.desc()).limit(limit)
    return session.scalars(query if before is None else query.where(ResumableUpload.id < before)).all()


def count(session: Session, state: UploadState) -> int:
    """Return how many uploads are in a state."""
    query = select(func.count()).select_from(ResumableUpload).where(ResumableUpload.state == state)
    return session.scalar(query) or 0


def parts(session: Session, upload_id: str) -> Sequence[UploadPart]:
    """Return the parts of an upload in their order."""
    query = select(UploadPart).where(UploadPart.upload_id == upload_id).order_by(UploadPart.start)
    return session.scalars(query).all()


def count_parts(session: Session, upload_id: str) -> int:
    """Return how many parts an upload has."""
    query = select(func.count()).select_from(UploadPart).where(UploadPart.upload_id == upload_id)
    return session.scalar(query) or 0


def delete_parts(session: Session, upload_id: str) -> list[str]:
    """Delete the rows of an upload's parts, and return the digests of their blobs."""
    digests = [part.sha256 for part in parts(session, upload_id)]
    session.execute(delete(UploadPart).where(UploadPart.upload_id == upload_id))
    return digests


def change(session: Session, upload_id: str, states: Collection[UploadState], *conditions: Any, **values: Any) -> bool:
    """Change an upload if it is in one of some states and all conditions hold; return whether it did."""
    statement = update(ResumableUpload).where(
        ResumableUpload.id == upload_id, ResumableUpload.state.in_(states), *conditions
    )
    changed = session.execute(statement.values(**values).execution_options(synchronize_session=False))
    return isinstance(changed, CursorResult) and changed.rowcount == 1


def is_free(at: datetime) -> Any:
    """Return the condition that no process works on an upload."""
    return or_(ResumableUpload.lease_until.is_(None), ResumableUpload.lease_until <= at)


def to_do(session: Session, state: UploadState, at: datetime, limit: int) -> Sequence[str]:
    """Return ids of uploads in a state on which nobody works, oldest first."""
    query = select(ResumableUpload.id).where(ResumableUpload.state == state, is_free(at))
    return session.scalars(query.order_by(ResumableUpload.id).limit(limit)).all()


def outlived(session: Session, at: datetime, limit: int) -> Sequence[ResumableUpload]:
    """Return uploads whose time is up, whatever they wait for, and that nobody works on."""
    query = select(ResumableUpload).where(
        ResumableUpload.expires_at <= at,
        ResumableUpload.state.not_in(ENDED - {UploadState.FAILED}),
        is_free(at),
    )
    return session.scalars(query.order_by(ResumableUpload.id).limit(limit)).all()


def forget_ended(session: Session, before: datetime, limit: int) -> int:
    """Delete rows of uploads that ended before a time; return how many."""
    ended = ResumableUpload.state.in_(ENDED - {UploadState.FAILED}) & (ResumableUpload.ended_at <= before)
    ids = session.scalars(select(ResumableUpload.id).where(ended).limit(limit)).all()
    session.execute(delete(ResumableUpload).where(ResumableUpload.id.in_(ids)))
    return len(ids)


def add_part(session: Session, upload_id: str, start: int, size: int, sha256: str) -> None:
    """Add the row of a part."""
    session.add(UploadPart(upload_id=upload_id, start=start, bytes=size, sha256=sha256))
