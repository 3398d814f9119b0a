"""Which blobs are in use: every column whose digest stands for stored bytes is listed here, once."""

from collections.abc import Sequence

from sqlalchemy import select, union
from sqlalchemy.orm import InstrumentedAttribute, Session

from app.catalog.models import Dataset, Model
from app.jobs.models import Artifact, Checkpoint

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
