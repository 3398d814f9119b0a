"""The files of an uploaded folder that were neither read nor kept."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("models", sa.Column("left_out", sa.JSON(), server_default="[]", nullable=False))


def downgrade() -> None:
    op.drop_column("models", "left_out")
