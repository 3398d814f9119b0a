"""The kind of each job: one recipe, or a sweep."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("jobs", sa.Column("kind", sa.String(length=16), server_default="quantize", nullable=False))
    op.execute("UPDATE jobs SET kind = 'sweep' WHERE sweep IS NOT NULL")
    op.create_index("ix_jobs_kind_id", "jobs", ["kind", "id"])


def downgrade() -> None:
    op.drop_index("ix_jobs_kind_id", "jobs")
    op.drop_column("jobs", "kind")
