"""The check of an upload that is here as a whole: claimed under a lease, ended with one recorded outcome.

A process that dies meanwhile loses nothing: the parts are stored, its lease runs out, and another process begins again.
What a process that lost its lease still finds out is not recorded: each outcome counts only with the claim's token.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

from sqlalchemy.orm import Session

from app.accounts.caller import Caller, Role
from app.catalog.service import DATASETS, MODELS, Catalog, Examined, Upload
from app.database import begin_writing, clock
from app.errors import ServiceError
from app.storage import Blob, Storage
from app.uploads import repository
from app.uploads.models import ResumableUpload
from app.uploads.refusals import as_column
from app.uploads.service import SALT_BYTES, delete_blobs
from app.uploads.status import WORK, UploadState

MOST_TRIES = 3
"""Of a check that fails for a reason that is ours; waiting for a gate, or for room on a disk, is no try."""

CATALOGS: dict[str, Catalog[Any]] = {"model": MODELS, "dataset": DATASETS}


@dataclass(frozen=True)
class Claimed:
    """An upload that this process works on, and the token with which its outcome counts."""

    id: str
    token: int
    tries: int
    caller: Caller
    """On whose behalf: the one who began the upload."""
    purpose: str
    name: str
    filename: str
    source: str | None
    fetched: bool
    parts: Sequence[str]
    received_bytes: int


def to_do(session: Session, state: UploadState, limit: int) -> Sequence[str]:
    """Return ids of uploads that wait to be fetched or checked, oldest first."""
    return repository.to_do(session, state, clock(session), limit) if limit > 0 else []


def claim(session: Session, upload_id: str, lease: timedelta) -> Claimed | None:
    """Claim an upload for a time; None if another has it, or there is nothing to do."""
    begin_writing(session)
    at = clock(session)
    token = ResumableUpload.token + 1
    if not repository.change(
        session, upload_id, WORK, repository.is_free(at), token=token, lease_until=at + lease, refusal=None
    ):
        session.rollback()
        return None
    row = repository.find(session, upload_id)
    assert row is not None
    parts = [part.sha256 for part in repository.parts(session, upload_id)]
    session.commit()
    return Claimed(
        id=row.id,
        token=row.token,
        tries=row.tries,
        caller=Caller(row.project, Role.SUBMITTER, row.actor),
        purpose=row.purpose,
        name=row.name,
        filename=row.filename,
        source=row.source,
        fetched=row.state == UploadState.CHECKING,
        parts=parts,
        received_bytes=row.received_bytes,
    )


def renew(session: Session, claimed: Claimed, lease: timedelta) -> bool:
    """Renew the lease; return False if it was lost."""
    begin_writing(session)
    held = _change(session, claimed, lease_until=clock(session) + lease)
    session.commit()
    return held


def postpone(session: Session, claimed: Claimed, pause: timedelta, reason: ServiceError | None = None) -> None:
    """End a claim without an outcome: after a pause, any process may claim the upload."""
    begin_writing(session)
    refusal = None if reason is None else as_column(reason)
    _change(session, claimed, lease_until=clock(session) + pause, refusal=refusal)
    session.commit()


def examine(storage: Storage, claimed: Claimed, upload: Upload) -> Examined:
    """Put the parts together and pass them through the gate. Raises Invalid, Stopped, OSError."""
    for sha256 in claimed.parts:
        for chunk in storage.open(sha256, start=SALT_BYTES):
            upload.received.write(chunk)
    return CATALOGS[claimed.purpose].examine(upload)


def begin_fetching(session: Session, storage: Storage, claimed: Claimed) -> bool:
    """Delete what an earlier try has fetched; return False if the claim was lost."""
    begin_writing(session)
    if not _change(session, claimed, received_bytes=0):
        return False
    digests = repository.delete_parts(session, claimed.id)
    session.commit()
    delete_blobs(storage, digests)
    return True


def add_fetched(session: Session, claimed: Claimed, start: int, blob: Blob) -> bool:
    """Add a part that was fetched; return False if the claim was lost."""
    begin_writing(session)
    size = blob.bytes - SALT_BYTES
    if not _change(session, claimed, received_bytes=start + size):
        return False
    repository.add_part(session, claimed.id, start, size, blob.sha256)
    session.commit()
    return True


def end_fetching(session: Session, claimed: Claimed, size: int, lives: timedelta) -> Claimed | None:
    """Let what was fetched be checked, under the same claim; None if that was lost."""
    begin_writing(session)
    expires_at = clock(session) + lives
    if not _change(session, claimed, state=UploadState.CHECKING, bytes=size, tries=0, expires_at=expires_at):
        return None
    parts = [part.sha256 for part in repository.parts(session, claimed.id)]
    session.commit()
    return replace(claimed, fetched=True, tries=0, parts=parts, received_bytes=size)


def succeed(session: Session, storage: Storage, claimed: Claimed, examined: Examined) -> str | None:
    """Record what the upload became, and return its id; None if the claim was lost, and nothing is recorded."""
    begin_writing(session)
    row = CATALOGS[claimed.purpose].add(session, examined, claimed.name)
    session.flush()
    return row.id if _end(session, storage, claimed, state=UploadState.SUCCEEDED, result_id=row.id) else None


def refuse(session: Session, storage: Storage, claimed: Claimed, refusal: ServiceError) -> None:
    """Record why the upload is refused, and delete its bytes."""
    begin_writing(session)
    _end(session, storage, claimed, state=UploadState.REFUSED, refusal=as_column(refusal))


def fail(session: Session, claimed: Claimed, reason: ServiceError, pause: timedelta) -> None:
    """Record a fault that is not the upload's: it is tried again, MOST_TRIES times in all; bytes that came stay."""
    begin_writing(session)
    tries, at = claimed.tries + 1, clock(session)
    over = UploadState.FAILED if claimed.fetched else UploadState.REFUSED
    last = {"state": over, "ended_at": at} if tries >= MOST_TRIES else {}
    _change(session, claimed, tries=tries, lease_until=at + pause, refusal=as_column(reason), **last)
    session.commit()


def _end(session: Session, storage: Storage, claimed: Claimed, **values: Any) -> bool:
    """Record an outcome and delete the parts, unless the claim was lost: then nothing of the transaction stays."""
    if not _change(session, claimed, ended_at=clock(session), lease_until=None, **values):
        session.rollback()
        return False
    digests = repository.delete_parts(session, claimed.id)
    session.commit()
    delete_blobs(storage, digests)
    return True


def _change(session: Session, claimed: Claimed, **values: Any) -> bool:
    return repository.change(session, claimed.id, WORK, ResumableUpload.token == claimed.token, **values)
