"""Sweeps: several recipes in one job."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("jobs", sa.Column("sweep", sa.JSON(none_as_null=True), nullable=True))


def downgrade() -> None:
    # What the version before would take for a job on its first recipe goes.
    op.execute("DELETE FROM jobs WHERE sweep IS NOT NULL")
    op.drop_column("jobs", "sweep")
