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

from app.catalog.models import Dataset, Model
from app.database import begin_writing, clock, connected
from app.jobs import repository
from app.jobs.models import Artifact, Checkpoint
from app.settings import Settings
from app.storage import Storage, Swept, open_storage

BLOBS: tuple[InstrumentedAttribute[str], ...] = (
    Model.stored_sha256,
    Dataset.stored_sha256,
    Artifact.sha256,
    Checkpoint.sha256,
)
"""A column that is missing here has its blobs swept away: a test asks of every column named …sha256."""


def referenced(session: Session, digests: Sequence[str]) -> set[str]:
    """Return those of the digests that a committed row names; the transaction of this read ends."""
    session.rollback()  # what an open transaction sees may be old
    query = union(*(select(column).where(column.in_(digests)) for column in BLOBS))
    found = set(session.scalars(query))
    session.rollback()
    return found


BATCH = 200
FIRST_SWEEP_SECONDS = 60.0

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Collected:
    """What was thrown away: jobs, and what the storage held."""

    jobs: int
    swept: Swept


def collect_garbage(sessions: sessionmaker[Session], storage: Storage, settings: Settings) -> Collected:
    """Forget old jobs, if the settings say so, and sweep the storage. Raises OSError, SQLAlchemyError.

    Any number of processes may do it, at once and at any time. It walks the whole storage: once an hour is plenty.
    """
    jobs = 0
    with sessions() as session:
        if settings.keep_jobs_seconds is not None:
            jobs = expire_jobs(session, timedelta(seconds=settings.keep_jobs_seconds))
        swept = storage.sweep(settings.keep_blobs_seconds, partial(referenced, session))
    if jobs or swept.blobs or swept.unfinished:
        log.info(
            "removed %s old jobs, %s blobs of %s bytes that nothing refers to, %s unfinished uploads",
            *(jobs, swept.blobs, swept.bytes, swept.unfinished),
        )
    return Collected(jobs, swept)


@contextmanager
def sweeping(settings: Settings) -> Iterator[None]:
    """Collect garbage in a thread of its own: soon after the start, for processes that don't live long, then seldom."""
    stop = threading.Event()
    threading.Thread(target=_sweep_until, args=(stop, settings), name="sweeper", daemon=True).start()
    try:
        yield
    finally:
        stop.set()


def _sweep_until(stop: threading.Event, settings: Settings) -> None:
    pause = min(FIRST_SWEEP_SECONDS, settings.sweep_seconds)
    while not stop.wait(pause):
        pause = settings.sweep_seconds
        try:
            with connected(settings) as sessions:
                collect_garbage(sessions, open_storage(settings.storage_url), settings)
        except (SQLAlchemyError, OSError):
            log.warning("the storage was not swept: it or the database does not answer", exc_info=True)
        except Exception:
            log.exception("the storage was not swept")


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
