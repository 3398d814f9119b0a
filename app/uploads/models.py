"""Tables of uploads that come in parts. Each part is a blob, so every process that shares the storage has it."""

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, ForeignKey, Index, Integer, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from app.accounts.scope import Owned
from app.database import Base, UtcDateTime


class ResumableUpload(Owned, Base):
    """A model or dataset on its way; `received_bytes` are durable, and the next part begins there."""

    __tablename__ = "uploads"
    __table_args__ = (Index("ix_uploads_project_id", "project", "id"), Index("ix_uploads_state", "state"))

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    purpose: Mapped[str] = mapped_column(String(16))
    name: Mapped[str] = mapped_column(String(255))
    filename: Mapped[str] = mapped_column(String(255))
    sent_metadata: Mapped[str] = mapped_column(Text)
    source: Mapped[str | None] = mapped_column(Text)
    bytes: Mapped[int | None] = mapped_column(BigInteger)
    received_bytes: Mapped[int] = mapped_column(BigInteger, default=0)
    state: Mapped[str] = mapped_column(String(16))
    actor: Mapped[str] = mapped_column(String(255))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    expires_at: Mapped[datetime] = mapped_column(UtcDateTime)
    ended_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    result_id: Mapped[str | None] = mapped_column(String(64))
    refusal: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    token: Mapped[int] = mapped_column(Integer, default=0)
    tries: Mapped[int] = mapped_column(Integer, default=0)
    lease_until: Mapped[datetime | None] = mapped_column(UtcDateTime)


class UploadPart(Base):
    """The bytes of an upload from `start` on: a blob of their own, behind SALT_BYTES."""

    __tablename__ = "upload_parts"

    upload_id: Mapped[str] = mapped_column(String(64), ForeignKey("uploads.id", ondelete="CASCADE"), primary_key=True)
    start: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    bytes: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[str] = mapped_column(String(64), index=True)
