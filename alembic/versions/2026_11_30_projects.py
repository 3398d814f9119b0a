"""Projects, their keys, the audit trail, and a project for everything that there is.

Turns go by project from now on, in place of a word that each request chose.
"""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

DEFAULT = "default"
OWNED = ("models", "datasets", "jobs")
INDEXES = {
    "ix_jobs_of_project": ["project", "kind", "id", "state", "owner", "model_id"],
    "ix_jobs_of_owner": ["project", "kind", "owner", "id", "state", "model_id"],
    "ix_jobs_of_model": ["project", "kind", "model_id", "id", "state", "owner"],
    "ix_jobs_in_state": ["project", "kind", "state", "id", "owner", "model_id"],
}
FORMER_INDEXES = {
    "ix_jobs_kind_id": ["kind", "id"],
    "ix_jobs_of_owner": ["kind", "owner", "id", "state", "model_id"],
    "ix_jobs_of_model": ["kind", "model_id", "id", "state", "owner"],
    "ix_jobs_in_state": ["kind", "state", "id", "owner", "model_id"],
}
TIME = sa.DateTime(timezone=True)


def _project() -> sa.Column:
    return sa.Column("project", sa.String(length=64), nullable=False, server_default=DEFAULT)


def upgrade() -> None:
    projects = op.create_table(
        "projects",
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("limits", sa.JSON(), nullable=False, server_default="{}"),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_projects")),
    )
    op.execute(sa.insert(projects).values(name=DEFAULT, created_at=sa.func.current_timestamp()))
    op.create_table(
        "keys",
        _project(),
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("role", sa.String(length=16), nullable=False),
        sa.Column("prefix", sa.String(length=16), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("expires_at", TIME),
        sa.Column("revoked_at", TIME),
        sa.Column("last_used_at", TIME),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_keys")),
        sa.UniqueConstraint("digest", name=op.f("uq_keys_digest")),
    )
    op.create_table(
        "audit",
        _project(),
        sa.Column("seq", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("at", TIME, nullable=False),
        sa.Column("actor", sa.String(length=255), nullable=False),
        sa.Column("action", sa.String(length=64), nullable=False),
        sa.Column("target", sa.String(length=255), nullable=False),
        sa.Column("request_id", sa.String(length=64)),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_audit")),
    )
    op.create_index("ix_audit_project_seq", "audit", ["project", "seq"])
    op.create_index("ix_audit_of_a_day", "audit", ["project", "action", "at"])
    for table in OWNED:
        op.add_column(table, _project())
    for table in ("models", "datasets"):
        op.create_index(f"ix_{table}_project_id", table, ["project", "id"])
    _replace_indexes(FORMER_INDEXES, INDEXES)
    op.drop_table("owners")
    op.create_table(
        "turns",
        sa.Column("project", sa.String(length=64), nullable=False),
        sa.Column("served_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("project", name=op.f("pk_turns")),
    )


def downgrade() -> None:
    op.create_table(
        "owners",
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("served_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_owners")),
    )
    _replace_indexes(INDEXES, FORMER_INDEXES)
    for table in ("models", "datasets"):
        op.drop_index(f"ix_{table}_project_id", table)
    for table in OWNED:
        op.drop_column(table, "project")
    for table in ("turns", "audit", "keys", "projects"):
        op.drop_table(table)


def _replace_indexes(former: dict[str, list[str]], new: dict[str, list[str]]) -> None:
    for name in former:
        op.drop_index(name, "jobs")
    for name, columns in new.items():
        op.create_index(name, "jobs", columns)
