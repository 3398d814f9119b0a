"""An idempotency key belongs to an owner, and a job keeps the id of the request that submitted it.

The column of keys holds digests of owner and key from now on. A new constraint would do too, but SQLite changes one
only by copying the table, which takes all rows with it that refer to a job.
"""

import hashlib
import json

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

JOBS = sa.table("jobs", sa.column("id"), sa.column("owner"), sa.column("idempotency_key"))


def upgrade() -> None:
    op.add_column("jobs", sa.Column("request_id", sa.String(length=64)))
    connection = op.get_bind()
    for job_id, owner, key in connection.execute(sa.select(JOBS).where(JOBS.c.idempotency_key.is_not(None))).all():
        digest = hashlib.sha256(json.dumps([owner, key]).encode()).hexdigest()
        connection.execute(sa.update(JOBS).where(JOBS.c.id == job_id).values(idempotency_key=digest))


def downgrade() -> None:
    op.execute(sa.update(JOBS).values(idempotency_key=None))  # a digest is no key that anyone sends
    op.drop_column("jobs", "request_id")
