"""The layers of the sandbox that each worker found to hold."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # A worker of the version before has not said; it says so again within seconds.
    op.add_column("workers", sa.Column("sandbox", sa.JSON(), server_default="{}", nullable=False))


def downgrade() -> None:
    op.drop_column("workers", "sandbox")
