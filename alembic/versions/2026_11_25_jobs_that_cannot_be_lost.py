"""Leases, attempts, owners, time limits and checkpoints."""

import sqlalchemy as sa
from alembic import op

import app.database

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

TIME = app.database.UtcDateTime(timezone=True)
EPOCH, NEVER = "1970-01-01 00:00:00.000000", "9999-12-31 00:00:00.000000"
DAY, WEEK = "86400", "604800"


def upgrade() -> None:
    op.add_column("jobs", sa.Column("owner", sa.String(length=64), server_default="", nullable=False))
    op.add_column("jobs", sa.Column("wanted_device", sa.String(length=8), server_default="auto", nullable=False))
    op.add_column("jobs", sa.Column("pending_seconds", sa.Integer(), server_default=WEEK, nullable=False))
    op.add_column("jobs", sa.Column("running_seconds", sa.Integer(), server_default=DAY, nullable=False))
    op.add_column("jobs", sa.Column("lease_until", TIME, nullable=True))
    op.add_column("jobs", sa.Column("not_before", TIME, nullable=True))
    op.add_column("jobs", sa.Column("pending_until", TIME, server_default=NEVER, nullable=False))
    # What a worker of the version before still holds has no lease; this one has run out, so it is tried again.
    op.execute(f"UPDATE jobs SET lease_until = '{EPOCH}' WHERE state IN ('running', 'cancelling')")
    op.create_index("ix_jobs_state_lease_until", "jobs", ["state", "lease_until"])

    op.create_table(
        "owners",
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("served_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_owners")),
    )
    op.create_table(
        "attempts",
        sa.Column("job_id", sa.String(length=64), nullable=False),
        sa.Column("token", sa.Integer(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("worker", sa.String(length=255), nullable=False),
        sa.Column("device", sa.String(length=8), nullable=False),
        sa.Column("started_at", TIME, nullable=False),
        sa.Column("ended_at", TIME, nullable=True),
        sa.Column("outcome", sa.String(length=32), nullable=True),
        sa.Column("peak_memory_bytes", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_attempts_job_id_jobs"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_id", "token", name=op.f("pk_attempts")),
    )
    op.create_table(
        "checkpoints",
        sa.Column("key", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("key", "name", name=op.f("pk_checkpoints")),
    )
    op.create_index("ix_checkpoints_sha256", "checkpoints", ["sha256"])
    op.create_index("ix_checkpoints_created_at", "checkpoints", ["created_at"])


def downgrade() -> None:
    op.drop_table("checkpoints")
    op.drop_table("attempts")
    op.drop_table("owners")
    op.drop_index("ix_jobs_state_lease_until", "jobs")
    for name in (
        "owner",
        "wanted_device",
        "pending_seconds",
        "running_seconds",
        "pending_until",
        "lease_until",
        "not_before",
    ):
        op.drop_column("jobs", name)
