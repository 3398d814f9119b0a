"""Tables of webhooks: where events are sent, and each event on its way there."""

from datetime import datetime

from sqlalchemy import JSON, BigInteger, ForeignKey, Index, Integer, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from app.accounts.scope import Owned
from app.database import Base, UtcDateTime


class Webhook(Owned, Base):
    """An address of a user, and which events go there: all of a project, or those of one job."""

    __tablename__ = "webhooks"
    __table_args__ = (Index("ix_webhooks_of_project", "project", "id"),)

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    url: Mapped[str] = mapped_column(String(2048))
    description: Mapped[str] = mapped_column(String(255), default="")
    events: Mapped[list[str]] = mapped_column(JSON)
    enabled: Mapped[bool] = mapped_column(default=True)
    job_id: Mapped[str | None] = mapped_column(String(64), unique=True)
    """The job that brought it along; null: it is the project's."""
    secret: Mapped[str] = mapped_column(String(128))
    """Kept as it is: whoever signs needs it."""
    former_secret: Mapped[str | None] = mapped_column(String(128))
    former_until: Mapped[datetime | None] = mapped_column(UtcDateTime)
    """Until when the former secret signs too."""
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    failing_since: Mapped[datetime | None] = mapped_column(UtcDateTime)
    """Since when no attempt succeeded; null: the last one did, or there was none."""


class Delivery(Owned, Base):
    """One event on its way to one webhook: written when the event is published, so that nothing can lose it."""

    __tablename__ = "deliveries"
    __table_args__ = (
        Index("ix_deliveries_state_due_at", "state", "due_at"),
        Index("ix_deliveries_webhook_id_id", "webhook_id", "id"),
    )

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    webhook_id: Mapped[str] = mapped_column(ForeignKey("webhooks.id", ondelete="CASCADE"))
    job_id: Mapped[str] = mapped_column(String(64))
    event: Mapped[str] = mapped_column(String(32))
    position: Mapped[int] = mapped_column(BigInteger)
    body: Mapped[str] = mapped_column(Text)
    """What is sent, to the byte: it stays when the job is deleted."""
    state: Mapped[str] = mapped_column(String(16))
    attempts: Mapped[int] = mapped_column(Integer, default=0)
    """Counted before each attempt, so that it tells attempts apart."""
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    begun_at: Mapped[datetime] = mapped_column(UtcDateTime)
    """From when the time to deliver it counts: when it was created, or sent again by hand."""
    due_at: Mapped[datetime] = mapped_column(UtcDateTime)
    """When it is tried next; while it is being tried, when its lease ends."""
    ended_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    last_status: Mapped[int | None] = mapped_column(Integer)
    last_error: Mapped[str | None] = mapped_column(String(512))
