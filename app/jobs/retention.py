"""What is kept, and for how long: jobs that ended are forgotten, then the bytes that nothing refers to any more."""

import logging
from dataclasses import dataclass
from datetime import timedelta
from functools import partial

from sqlalchemy.orm import Session, sessionmaker

from app.database import begin_writing, clock
from app.jobs import repository
from app.jobs.references import referenced
from app.settings import Settings
from app.storage import Storage, Swept

BATCH = 200

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
