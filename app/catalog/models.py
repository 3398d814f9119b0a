"""Tables of models and datasets. What can be large is read only where it is asked for: see `CONTENTS`."""

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, Index, Integer, String
from sqlalchemy.orm import Mapped, mapped_column

from app.accounts.caller import DEFAULT_PROJECT, project_of_caller
from app.accounts.scope import Owned
from app.database import Base, UtcDateTime

CONTENTS = "contents"
"""The columns with one entry for each layer, tensor or file. They are loaded together, and never for a list."""


def _contents(**options: Any) -> Any:
    return mapped_column(JSON, deferred=True, deferred_group=CONTENTS, **options)


class VersionCount(Owned, Base):
    """The last version of a name, which is kept when the version is deleted: none is given twice."""

    __tablename__ = "version_counts"

    project: Mapped[str] = mapped_column(
        String(64), default=project_of_caller, server_default=DEFAULT_PROJECT, primary_key=True
    )
    kind: Mapped[str] = mapped_column(String(16), primary_key=True)
    name: Mapped[str] = mapped_column(String(255), primary_key=True)
    last: Mapped[int] = mapped_column(Integer)


class Model(Owned, Base):
    """An uploaded network, checked and immutable."""

    __tablename__ = "models"
    __table_args__ = (
        Index("ix_models_project_id", "project", "id"),
        Index("ix_models_of_name", "project", "name", "version", unique=True),
    )

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    name: Mapped[str] = mapped_column(String(255))
    version: Mapped[int] = mapped_column(Integer, server_default="1")
    """Counted for each name of a project."""
    format: Mapped[str] = mapped_column(String(16))
    bytes: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[str] = mapped_column(String(64), index=True)
    stored_bytes: Mapped[int] = mapped_column(BigInteger)
    stored_sha256: Mapped[str] = mapped_column(String(64), index=True)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    inputs: Mapped[list[dict[str, Any]]] = _contents()
    layers: Mapped[list[dict[str, Any]]] = _contents()
    parameters: Mapped[int] = mapped_column(BigInteger)
    warnings: Mapped[list[dict[str, Any]]] = _contents(default=list, server_default="[]")
    left_out: Mapped[list[dict[str, Any]]] = _contents(default=list, server_default="[]")


class Dataset(Owned, Base):
    """Named tensors with an equal first dimension."""

    __tablename__ = "datasets"
    __table_args__ = (
        Index("ix_datasets_project_id", "project", "id"),
        Index("ix_datasets_of_name", "project", "name", "version", unique=True),
    )

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    name: Mapped[str] = mapped_column(String(255))
    version: Mapped[int] = mapped_column(Integer, server_default="1")
    bytes: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[str] = mapped_column(String(64), index=True)
    stored_bytes: Mapped[int] = mapped_column(BigInteger)
    stored_sha256: Mapped[str] = mapped_column(String(64), index=True)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    samples: Mapped[int] = mapped_column(BigInteger)
    tensors: Mapped[list[dict[str, Any]]] = _contents()
