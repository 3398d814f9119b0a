"""Events have a project, and a position in one order of all that happened in this database."""

import sqlalchemy as sa
from alembic import op

revision = "0020"
down_revision = "0013"
branch_labels = None
depends_on = None

PROJECTS = """
    UPDATE job_events SET project = jobs.project FROM jobs WHERE jobs.id = job_events.job_id
"""
POSITIONS = """
    UPDATE job_events SET position = numbered.position
    FROM (SELECT job_id, seq, row_number() OVER (ORDER BY at, job_id, seq) AS position FROM job_events) AS numbered
    WHERE numbered.job_id = job_events.job_id AND numbered.seq = job_events.seq
"""


def upgrade() -> None:
    op.add_column("job_events", sa.Column("project", sa.String(length=64), nullable=False, server_default="default"))
    op.add_column("job_events", sa.Column("position", sa.BigInteger()))
    op.execute(PROJECTS)
    op.execute(POSITIONS)
    op.create_index("ix_job_events_position", "job_events", ["position"], unique=True)
    op.create_index("ix_job_events_of_project", "job_events", ["project", "position"])
    last = op.create_table(
        "last_position",
        sa.Column("name", sa.String(length=16), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_last_position")),
    )
    events = sa.table("job_events", sa.column("position"))
    highest = sa.select(sa.literal("events"), sa.func.coalesce(sa.func.max(events.c.position), 0))
    op.execute(sa.insert(last).from_select(["name", "position"], highest))


def downgrade() -> None:
    op.drop_table("last_position")
    op.drop_index("ix_job_events_of_project", "job_events")
    op.drop_index("ix_job_events_position", "job_events")
    op.drop_column("job_events", "position")
    op.drop_column("job_events", "project")
