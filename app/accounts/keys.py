"""API keys: a secret that is shown once, of which the digest is kept.

A key is `zp_` and 256 random bits, so its SHA-256 is as good as a slow hash: nobody finds the key to a digest by
trying, and the time that it takes to find a row by its digest tells nothing.
"""

import hashlib
import re
import secrets
from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from sqlalchemy import func, or_, select, update
from sqlalchemy.orm import Session

from app.accounts import audit
from app.accounts.caller import Caller, Role
from app.accounts.models import Key
from app.database import begin_writing, clock, new_id
from app.errors import Conflict, Fault, Invalid, NotFound, Unauthorized

KeyRow = Key
"""For annotations of those who may not name the tables."""

PREFIX = "zp_"
SHOWN = 8
"""How many characters behind the prefix stay visible."""
LONGEST_LIFE = timedelta(days=36525)
"""A hundred years: no sum of times is out of range."""
USED_EVERY = timedelta(minutes=1)
"""How exactly `last_used_at` is kept: a row that is written with each request would stop all others."""

_SECRET = re.compile(r"zp_[A-Za-z0-9_-]{43}")


class NewKey(NamedTuple):
    """A key, and its secret, which nobody can read again."""

    row: Key
    secret: str


class Known(NamedTuple):
    """The caller whom a key names, the key's id, and whether its last use is worth a write."""

    caller: Caller
    key_id: str
    stale: bool


def count_holding(session: Session) -> int:
    """Return how many keys hold, of all projects that the session sees."""
    holds = (Key.revoked_at.is_(None), or_(Key.expires_at.is_(None), Key.expires_at > clock(session)))
    return session.scalar(select(func.count()).select_from(Key).where(*holds)) or 0


def create(session: Session, project: str, name: str, role: Role, expires_at: datetime | None = None) -> NewKey:
    """Make a key of a project. Raises Invalid for a time that is past, or too far."""
    begin_writing(session)
    made = _new_key(session, project, name, role, expires_at)
    audit.record(session, "key.created", made.row.id)
    session.commit()
    return made


def rotate(session: Session, key_id: str, overlap: timedelta) -> NewKey:
    """Make a key like another one, which ends after a time in which both hold. Raises NotFound, Conflict."""
    begin_writing(session)
    old, at = _find(session, key_id, lock=True), clock(session)
    if not _holds(old, at):
        raise Conflict("key_ended", f"The key {key_id} holds no more.", "Make a new key.")
    expires = at + (old.expires_at - old.created_at) if old.expires_at else None
    made = _new_key(session, old.project, old.name, Role(old.role), expires)
    old.expires_at = min(old.expires_at or at + overlap, at + overlap)
    audit.record(session, "key.rotated", key_id)
    audit.record(session, "key.created", made.row.id)
    session.commit()
    return made


def revoke(session: Session, key_id: str) -> Key:
    """End a key at once; again changes nothing. Raises NotFound."""
    begin_writing(session)
    key = _find(session, key_id, lock=True)
    if key.revoked_at is None:
        key.revoked_at = clock(session)
        audit.record(session, "key.revoked", key_id)
    session.commit()
    return key


def read(session: Session, key_id: str) -> Key:
    """Return a key. Raises NotFound."""
    return _find(session, key_id)


def page(session: Session, before: str | None, limit: int) -> Sequence[Key]:
    """Return keys, newest first, older than the id `before`."""
    query = select(Key).order_by(Key.id.desc()).limit(limit)
    return session.scalars(query if before is None else query.where(Key.id < before)).all()


def looks_like_one(secret: str) -> bool:
    """Return whether something may be a key: anything else is not looked for."""
    return _SECRET.fullmatch(secret) is not None


def known(session: Session, secret: str) -> Known:
    """Return whom a secret names. Raises Unauthorized for one that is unknown, revoked or expired."""
    key = session.scalar(select(Key).where(Key.digest == _digest(secret)))
    if key is None or key.revoked_at is not None:
        raise Unauthorized("credentials_refused", "This key is unknown or was revoked.", "Ask an admin for a new one.")
    at = clock(session)
    if not _holds(key, at):
        raise Unauthorized("credentials_refused", "This key has expired.", "Ask an admin for a new one.")
    stale = key.last_used_at is None or at - key.last_used_at > USED_EVERY
    return Known(Caller(key.project, Role(key.role), key.id), key.id, stale)


def ended(session: Session, key_ids: Collection[str]) -> set[str]:
    """Return those of some keys that hold no more; what is no key's id is none of them."""
    at = clock(session)
    keys = session.scalars(select(Key).where(Key.id.in_(key_ids))).all()
    return {key.id for key in keys if key.revoked_at is not None or not _holds(key, at)}


def note_used(session: Session, key_id: str) -> None:
    """Record that a key was used."""
    begin_writing(session)
    session.execute(update(Key).where(Key.id == key_id).values(last_used_at=clock(session)))
    session.commit()


def _new_key(session: Session, project: str, name: str, role: Role, expires_at: datetime | None) -> NewKey:
    at = clock(session)
    if expires_at is not None and expires_at <= at:
        detail, fault = "The key would have expired already.", Fault("/expires_at", "is past")
        raise Invalid("request_invalid", detail, "Name a time to come.", [fault])
    if expires_at is not None and expires_at - at > LONGEST_LIFE:
        detail, fault = "The key would hold for more than a hundred years.", Fault("/expires_at", "is too far")
        raise Invalid("request_invalid", detail, "Name an earlier time, or none.", [fault])
    secret = PREFIX + secrets.token_urlsafe(32)
    row = Key(
        id=new_id("key", at),
        project=project,
        name=name,
        role=role,
        prefix=secret[: len(PREFIX) + SHOWN],
        digest=_digest(secret),
        created_at=at,
        expires_at=expires_at,
    )
    session.add(row)
    return NewKey(row, secret)


def _find(session: Session, key_id: str, *, lock: bool = False) -> Key:
    key = session.get(Key, key_id, with_for_update=lock, populate_existing=lock)
    if key is None:
        raise NotFound("key_not_found", f"There is no key {key_id}.", "GET /v1/keys lists what there is.")
    return key


def _holds(key: Key, at: datetime) -> bool:
    return key.revoked_at is None and (key.expires_at is None or at < key.expires_at)


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
