"""Indexes for the lists of jobs: by owner, model and state, newest first."""

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

INDEXES = {
    "ix_jobs_of_owner": ["kind", "owner", "id", "state", "model_id"],
    "ix_jobs_of_model": ["kind", "model_id", "id", "state", "owner"],
    "ix_jobs_in_state": ["kind", "state", "id", "owner", "model_id"],
}


def upgrade() -> None:
    for name, columns in INDEXES.items():
        op.create_index(name, "jobs", columns)


def downgrade() -> None:
    for name in INDEXES:
        op.drop_index(name, "jobs")
