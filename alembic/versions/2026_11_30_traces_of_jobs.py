"""A job keeps its place in the trace of the request that submitted it."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("jobs", sa.Column("trace", sa.String(length=64)))


def downgrade() -> None:
    op.drop_column("jobs", "trace")
