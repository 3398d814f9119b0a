"""What became of jobs, counted so that it never falls, and since when each job waits."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "tallies",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("metric", sa.String(length=64), nullable=False),
        sa.Column("labels", sa.String(length=255), nullable=False),
        sa.Column("bucket", sa.Integer(), nullable=False),
        sa.Column("count", sa.BigInteger(), nullable=False),
        sa.Column("total", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_tallies")),
    )
    # An API of the version before, which may go on while this is done, leaves it empty: its jobs wait since they are.
    op.add_column("jobs", sa.Column("queued_at", sa.DateTime(timezone=True)))


def downgrade() -> None:
    op.drop_column("jobs", "queued_at")
    op.drop_table("tallies")
