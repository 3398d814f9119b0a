"""What is kept, and for how long: jobs that ended are forgotten, then the bytes that nothing refers to any more."""

import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial

from sqlalchemy import select, union
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import InstrumentedAttribute, Session, sessionmaker

from app import metrics
from app.catalog.models import Dataset, Model
from app.database import begin_writing, clock, connected
from app.jobs import repository
from app.jobs.models import Artifact, Checkpoint
from app.settings import Settings
from app.storage import Removed, Storage, open_storage
from app.uploads.models import UploadPart
from app.uploads.service import expire

BLOBS: tuple[InstrumentedAttribute[str], ...] = (
    Model.stored_sha256,
    Dataset.stored_sha256,
    Artifact.sha256,
    Checkpoint.sha256,
    UploadPart.sha256,
)
"""Every column that names a blob; the blobs of a missing one are removed. A test looks at each column named …sha256."""

BATCH = 200
FIRST_PAUSE_SECONDS = 60.0

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Collected:
    """What was removed: old jobs, what the storage held, and resumable uploads whose time was up."""

    jobs: int
    removed: Removed
    expired: int = 0


@contextmanager
def collecting_garbage(settings: Settings) -> Iterator[None]:
    """Collect garbage in a thread of its own: soon after the start, for processes that don't live long, then seldom."""
    stop = threading.Event()
    threading.Thread(target=_collect_until, args=(stop, settings), name="garbage", daemon=True).start()
    try:
        yield
    finally:
        stop.set()


def _collect_until(stop: threading.Event, settings: Settings) -> None:
    pause = min(FIRST_PAUSE_SECONDS, settings.garbage_seconds)
    while not stop.wait(pause):
        pause = settings.garbage_seconds
        try:
            with connected(settings) as sessions:
                collected = collect_garbage(sessions, open_storage(settings), settings)
            metrics.GARBAGE_LAST.set_to_current_time()
            metrics.GARBAGE_BYTES.inc(collected.removed.bytes)
        except (SQLAlchemyError, OSError):
            log.warning("no garbage was collected: the storage or the database does not answer", exc_info=True)
        except Exception:
            log.exception("no garbage was collected")


def collect_garbage(sessions: sessionmaker[Session], storage: Storage, settings: Settings) -> Collected:
    """Delete old jobs, if the settings say so, uploads whose time is up, then the blobs without a row.

    Raises OSError, SQLAlchemyError. Any number of processes may do it, at once and at any time. It walks the whole
    storage: once an hour is plenty.
    """
    jobs = 0
    with sessions() as session:
        if settings.keep_jobs_seconds is not None:
            jobs = expire_jobs(session, timedelta(seconds=settings.keep_jobs_seconds))
        expired = expire(session, storage)
        removed = storage.collect_garbage(settings.keep_blobs_seconds, partial(referenced, session))
    if jobs or removed.blobs or removed.unfinished or expired:
        log.info(
            "removed %s old jobs, %s blobs of %s bytes that nothing refers to, %s unfinished and %s expired uploads",
            *(jobs, removed.blobs, removed.bytes, removed.unfinished, expired),
        )
    return Collected(jobs, removed, expired)


def expire_jobs(session: Session, older_than: timedelta) -> int:
    """Delete jobs that ended longer ago than this, with all that belongs to them; return how many.

    Each batch is one transaction: on SQLite nobody else could write while all of them were deleted at once.
    """
    deleted = 0
    while True:
        begin_writing(session)
        count = repository.delete_ended(session, clock(session) - older_than, BATCH)
        session.commit()
        deleted += count
        if count < BATCH:
            return deleted


def referenced(session: Session, digests: Sequence[str]) -> set[str]:
    """Return those of the digests that a committed row names, and end the transaction of this read."""
    session.rollback()  # what an open transaction sees may be old
    query = union(*(select(column).where(column.in_(digests)) for column in BLOBS))
    named = set(session.scalars(query))
    session.rollback()
    return named
