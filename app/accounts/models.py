"""Tables of accounts: projects, their keys, and the trail of what was done."""

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, Index, Integer, String
from sqlalchemy.orm import Mapped, mapped_column

from app.accounts.scope import Owned
from app.database import Base, UtcDateTime


class Project(Base):
    """A tenant: what it owns is seen by its callers alone."""

    __tablename__ = "projects"

    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    limits: Mapped[dict[str, Any]] = mapped_column(JSON, default=dict, server_default="{}")
    """Quotas that differ from the settings'."""


class Key(Owned, Base):
    """An API key: of its secret only the digest is kept, and the beginning, which people recognize it by."""

    __tablename__ = "keys"

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    name: Mapped[str] = mapped_column(String(255))
    role: Mapped[str] = mapped_column(String(16))
    prefix: Mapped[str] = mapped_column(String(16))
    digest: Mapped[str] = mapped_column(String(64), unique=True)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    expires_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    revoked_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    last_used_at: Mapped[datetime | None] = mapped_column(UtcDateTime)


class AuditEntry(Owned, Base):
    """Who did what, written in the transaction that did it; append only."""

    __tablename__ = "audit"
    __table_args__ = (
        Index("ix_audit_project_seq", "project", "seq"),
        Index("ix_audit_of_a_day", "project", "action", "at"),
    )

    # SQLite counts rows by itself in a column of this type alone.
    seq: Mapped[int] = mapped_column(BigInteger().with_variant(Integer, "sqlite"), primary_key=True)
    at: Mapped[datetime] = mapped_column(UtcDateTime)
    actor: Mapped[str] = mapped_column(String(255))
    action: Mapped[str] = mapped_column(String(64))
    target: Mapped[str] = mapped_column(String(255))
    request_id: Mapped[str | None] = mapped_column(String(64))
