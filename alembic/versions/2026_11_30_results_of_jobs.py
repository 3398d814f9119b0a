"""What became of a job in columns that lists are filtered by, and the job whose request a job repeats.

The SQNR of jobs that ended before is in their reports alone.
"""

import sqlalchemy as sa
from alembic import op

revision = "0023"
down_revision = "0022"
branch_labels = None
depends_on = None

FORMER = {
    "ix_jobs_of_project": ["project", "kind", "id", "state", "owner", "model_id"],
    "ix_jobs_of_owner": ["project", "kind", "owner", "id", "state", "model_id"],
    "ix_jobs_of_model": ["project", "kind", "model_id", "id", "state", "owner"],
    "ix_jobs_in_state": ["project", "kind", "state", "id", "owner", "model_id"],
}
RESULTS = ["verdict", "error_code", "sqnr_db", "finished_at"]
REST = ["id", "state", "owner", "model_id"]
INDEXES = {name: columns + RESULTS for name, columns in FORMER.items()} | {
    "ix_jobs_with_code": ["project", "kind", "error_code", *REST, "verdict", "sqnr_db", "finished_at"],
    "ix_jobs_of_verdict": ["project", "kind", "verdict", *REST, "error_code", "sqnr_db", "finished_at"],
}
JOBS = sa.table("jobs", sa.column("error", sa.JSON), sa.column("error_code"))


def upgrade() -> None:
    op.add_column("jobs", sa.Column("error_code", sa.String(length=64)))
    op.add_column("jobs", sa.Column("sqnr_db", sa.Float()))
    op.add_column("jobs", sa.Column("retry_of", sa.String(length=64)))
    failed = sa.update(JOBS).where(JOBS.c.error.is_not(sa.null()))
    op.execute(failed.values(error_code=JOBS.c.error["code"].as_string()))
    _replace_indexes(FORMER, INDEXES)


def downgrade() -> None:
    _replace_indexes(INDEXES, FORMER)
    for column in ("retry_of", "sqnr_db", "error_code"):
        op.drop_column("jobs", column)


def _replace_indexes(former: dict[str, list[str]], new: dict[str, list[str]]) -> None:
    for name in former:
        op.drop_index(name, "jobs")
    for name, columns in new.items():
        op.create_index(name, "jobs", columns)
