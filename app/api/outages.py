"""Refusals for what is away or has run out: the database, the storage, the system's own limits."""

import errno
from collections.abc import Callable, Mapping

from app.api.admission import database_busy
from app.database import Trouble
from app.errors import Fault, ServiceError, StorageFull, Unavailable


def _database_away() -> Unavailable:
    """Return the refusal while the database is away. It is not known whether an interrupted commit took effect."""
    return Unavailable(
        "database_unavailable",
        "The database does not answer.",
        "Ask again in a moment. A POST /v1/jobs is safe to repeat under an Idempotency-Key.",
        retry_after=5,
    )


def _database_not_migrated() -> Unavailable:
    detail = "The database lacks tables or columns of this version."
    remedy = "The operator has to run zeropoint migrate."
    return Unavailable("not_ready", detail, remedy, [Fault("/database", detail)], retry_after=10)


def _database_full() -> StorageFull:
    detail = "The database has no room left."
    return StorageFull("storage_full", detail, "Ask the operator for room on the database's disk.")


def storage_away() -> Unavailable:
    """Return the refusal while the storage is away."""
    return Unavailable(
        "storage_away",
        "The storage of models, datasets and artifacts does not answer, or refuses this service.",
        "Ask again later; Retry-After says when. GET /readyz says what is wrong with it.",
        retry_after=10,
    )


def exhausted() -> Unavailable:
    """Return the refusal of a process that is at a limit of the system."""
    detail = "The service has no files, processes or memory left for this request."
    return Unavailable("busy", detail, "Ask again later; Retry-After says when.", retry_after=10)


DATABASE_REFUSALS: Mapping[Trouble, Callable[[], ServiceError]] = {
    Trouble.BUSY: database_busy,
    Trouble.NOT_MIGRATED: _database_not_migrated,
    Trouble.FULL: _database_full,
    Trouble.AWAY: _database_away,
}

NO_THREAD = "can't start new thread"

EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.ENOMEM, errno.ENOBUFS})
"""The errno of an OSError that means: a limit on files, processes or memory is reached."""
