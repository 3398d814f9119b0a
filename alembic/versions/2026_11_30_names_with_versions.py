"""Versions of names: models and datasets that are there are numbered in the order in which they came."""

import sqlalchemy as sa
from alembic import op

revision = "0024"
down_revision = "0023"
branch_labels = None
depends_on = None

KINDS = {"models": "model", "datasets": "dataset"}


def upgrade() -> None:
    counts = op.create_table(
        "version_counts",
        sa.Column("project", sa.String(length=64), nullable=False, server_default="default"),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("last", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("project", "kind", "name", name=op.f("pk_version_counts")),
    )
    for table, kind in KINDS.items():
        op.add_column(table, sa.Column("version", sa.Integer(), nullable=False, server_default="1"))
        _number(table, kind, counts)
        op.create_index(f"ix_{table}_of_name", table, ["project", "name", "version"], unique=True)


def downgrade() -> None:
    for table in KINDS:
        op.drop_index(f"ix_{table}_of_name", table)
        op.drop_column(table, "version")
    op.drop_table("version_counts")


def _number(name: str, kind: str, counts: sa.Table) -> None:
    rows = sa.table(name, *map(sa.column, ("id", "project", "name", "version")))
    number = sa.func.row_number().over(partition_by=(rows.c.project, rows.c.name), order_by=rows.c.id)
    connection = op.get_bind()
    for row_id, version in connection.execute(sa.select(rows.c.id, number)).all():
        if version > 1:
            connection.execute(sa.update(rows).where(rows.c.id == row_id).values(version=version))
    names = rows.c.project, sa.literal(kind), rows.c.name
    last = sa.select(*names, sa.func.max(rows.c.version)).group_by(rows.c.project, rows.c.name)
    connection.execute(sa.insert(counts).from_select(["project", "kind", "name", "last"], last))
