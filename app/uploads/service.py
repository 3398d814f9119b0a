"""Use-cases of uploads that come in parts, each one transaction.

Two clients may send the same part at once, and a connection may go on sending long after its client came back over
another one. No lock is held meanwhile: a part is taken if the upload still ends where the part begins, and else the
client hears where it ends.
"""

import logging
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

from sqlalchemy.orm import Session

from app.accounts import audit
from app.accounts.caller import ANYONE, caller
from app.database import begin_writing, clock, new_id
from app.errors import Conflict, Gone, NotFound, ServiceError, TooLarge, TooMany
from app.storage import Blob, Storage
from app.uploads import repository
from app.uploads.models import ResumableUpload
from app.uploads.refusals import from_column
from app.uploads.status import ENDED, UploadState

UploadRow = ResumableUpload
"""For annotations of those who may not name the tables."""

log = logging.getLogger(__name__)

Purpose = Literal["model", "dataset"]

SALT_BYTES = 16
MOST_PARTS = 10_000
KEEP_ENDED = timedelta(days=7)
"""How long the outcome of an upload can be read."""
BATCH = 200


@dataclass(frozen=True)
class NewUpload:
    """What a client says of an upload before its first byte; `metadata` is the header, which it may ask for again."""

    purpose: Purpose
    name: str
    filename: str
    bytes: int | None
    metadata: str = ""
    source: str | None = None


def salt() -> bytes:
    """Return what the blob of a part begins with.

    It makes the blob's digest one that nothing else has. So the blob can be deleted as soon as its row is: no other row
    names it, and nobody is about to write one.
    """
    return secrets.token_bytes(SALT_BYTES)


def create(session: Session, new: NewUpload, lives: timedelta) -> ResumableUpload:
    """Begin an upload."""
    begin_writing(session)
    at, who = clock(session), caller() or ANYONE
    row = ResumableUpload(
        id=new_id("upl", at),
        purpose=new.purpose,
        name=new.name,
        filename=new.filename,
        sent_metadata=new.metadata,
        source=new.source,
        bytes=new.bytes,
        received_bytes=0,
        state=UploadState.RECEIVING if new.source is None else UploadState.FETCHING,
        actor=who.actor,
        created_at=at,
        expires_at=at + lives,
        token=0,
        tries=0,
    )
    session.add(row)
    audit.record(session, "upload.created" if new.source is None else "import.created", row.id)
    session.commit()
    return row


def check_imports(session: Session, most: int | None) -> None:
    """Raise TooMany when the caller's project has as many imports that are being fetched as it may have uploads."""
    if most is not None and (count := repository.count(session, UploadState.FETCHING)) >= most:
        detail = f"{count} imports of this project are being fetched, as many as it may have."
        raise TooMany("quota_exceeded", detail, "Wait for one to end, or delete one.", retry_after=30)


def read(session: Session, upload_id: str) -> ResumableUpload:
    """Return an upload. Raises NotFound."""
    found = repository.find(session, upload_id)
    if found is None:
        raise NotFound("upload_not_found", f"There is no upload {upload_id}.", "GET /v1/uploads lists what there is.")
    return found


def read_to_resume(session: Session, upload_id: str) -> ResumableUpload:
    """Return an upload whose bytes are here, or have become a model or dataset. Raises NotFound, Gone."""
    found = read(session, upload_id)
    over = found.state == UploadState.RECEIVING and found.expires_at <= clock(session)
    if over or found.state == UploadState.EXPIRED:
        raise _expired(upload_id)
    if found.state in (UploadState.REFUSED, UploadState.FAILED):
        raise Gone(
            "upload_ended",
            f"The upload {upload_id} was {found.state}, and has no result.",
            f"GET /v1/uploads/{upload_id} says why; begin again with a POST to /v1/uploads.",
        )
    return found


def page(session: Session, before: str | None, limit: int) -> Sequence[ResumableUpload]:
    """Return uploads, newest first, older than the id `before`."""
    return repository.page(session, before, limit)


def add_part(session: Session, upload_id: str, start: int, blob: Blob, lives: timedelta) -> int:
    """Add a part that is stored, and return where the next one begins. Raises NotFound, Gone, Conflict, TooLarge."""
    begin_writing(session)
    at = clock(session)
    row = read(session, upload_id)
    size = blob.bytes - SALT_BYTES
    ends = start + size
    whole = ends == row.bytes
    taken = repository.change(
        session,
        upload_id,
        {UploadState.RECEIVING},
        ResumableUpload.received_bytes == start,
        ResumableUpload.expires_at > at,
        received_bytes=ends,
        expires_at=at + lives,
        state=UploadState.CHECKING if whole else UploadState.RECEIVING,
    )
    if not taken:
        raise wrong_offset(read_to_resume(session, upload_id).received_bytes, start)
    if repository.count_parts(session, upload_id) >= MOST_PARTS:
        raise _too_many_parts(upload_id)
    repository.add_part(session, upload_id, start, size, blob.sha256)
    if whole:
        audit.record(session, "upload.received", upload_id)
    session.commit()
    return ends


def ask_again(session: Session, upload_id: str) -> ResumableUpload:
    """Let an upload that is here be checked now, also if that failed before; return it. Raises NotFound."""
    begin_writing(session)
    repository.change(session, upload_id, {UploadState.FAILED}, state=UploadState.CHECKING, tries=0, lease_until=None)
    paused = ResumableUpload.refusal.is_not(None)
    repository.change(session, upload_id, {UploadState.CHECKING}, paused, refusal=None, lease_until=None)
    session.commit()
    return read(session, upload_id)


def delete(session: Session, storage: Storage, upload_id: str) -> None:
    """Delete an upload and its bytes; what it became stays. Raises NotFound."""
    begin_writing(session)
    row = read(session, upload_id)
    digests = repository.delete_parts(session, upload_id)
    session.delete(row)
    audit.record(session, "upload.deleted", upload_id)
    session.commit()
    delete_blobs(storage, digests)


def outcome(row: ResumableUpload) -> ServiceError | None:
    """Return why an upload that ended has no result; None where it has one, or has not ended."""
    if row.refusal is None or row.state not in ENDED:
        return None
    return from_column(row.refusal)


def expire(session: Session, storage: Storage) -> int:
    """End uploads whose time is up, delete their bytes, and forget those that ended long ago; return how many ended.

    For all projects. Each batch is one transaction.
    """
    count = 0
    while True:
        begin_writing(session)
        at = clock(session)
        rows, digests = repository.outlived(session, at, BATCH), list[str]()
        for row in rows:
            row.state, row.ended_at, row.lease_until = UploadState.EXPIRED, at, None
            digests += repository.delete_parts(session, row.id)
        forgotten = repository.forget_ended(session, at - KEEP_ENDED, BATCH)
        session.commit()
        delete_blobs(storage, digests)
        count += len(rows)
        if max(len(rows), forgotten) < BATCH:
            return count


def delete_blobs(storage: Storage, digests: Sequence[str]) -> None:
    """Delete the blobs of parts whose rows are gone. What stays where the storage is away is removed as garbage."""
    try:
        for sha256 in digests:
            storage.delete(sha256)
    except OSError:
        log.warning("parts of uploads could not be deleted: they stay for a day", exc_info=True)


def wrong_offset(expected: int, sent: int) -> Conflict:
    """Return the refusal of a part that does not begin where the upload ends."""
    return Conflict(
        "upload_offset_mismatch",
        f"The part begins at byte {sent}, and the upload ends at byte {expected}.",
        "Ask HEAD for Upload-Offset, and send what follows it.",
    )


def _expired(upload_id: str) -> Gone:
    return Gone(
        "upload_expired",
        f"The upload {upload_id} was not finished in time, and its bytes are gone.",
        "Begin again with a POST to /v1/uploads; Upload-Expires says how long an upload waits for its next part.",
    )


def _too_many_parts(upload_id: str) -> TooLarge:
    return TooLarge(
        "upload_too_many_parts",
        f"The upload {upload_id} came in {MOST_PARTS} parts, the most there may be.",
        "Begin again, and send larger parts.",
    )
