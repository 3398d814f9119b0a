"""Names that stand for a version of a model or dataset: `encoder@3`, and `encoder@latest` for the newest that is there.

A name alone stands for nothing: a request that names no version would change its meaning without a word.
"""

import re
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.orm import Session

from app.accounts.caller import project_of_caller
from app.catalog.models import VersionCount
from app.catalog.repository import Upload

LATEST = "latest"
_REFERENCE = re.compile(r"(?s:(?P<name>.*))@(?P<version>[1-9][0-9]{0,8}|latest)")


@dataclass(frozen=True)
class Reference:
    """A version of a name; None is the newest."""

    name: str
    version: int | None


def reference_of(text: str) -> Reference | None:
    """Return the reference that a text is; None for what is an id, or nothing."""
    match = _REFERENCE.fullmatch(text)
    if match is None:
        return None
    return Reference(match["name"], None if match["version"] == LATEST else int(match["version"]))


def find_id(session: Session, table: type[Upload], reference: Reference) -> str | None:
    """Return the id of the upload that a reference stands for."""
    query = select(table.id).where(table.name == reference.name)
    if reference.version is not None:
        return session.scalar(query.where(table.version == reference.version))
    return session.scalar(query.order_by(table.version.desc()).limit(1))


def next_version(session: Session, kind: str, name: str) -> int:
    """Return the next version of a name in the caller's project; others who ask wait for the transaction's end."""
    insert: Any = sqlite_insert if session.get_bind().dialect.name == "sqlite" else postgresql_insert
    first = insert(VersionCount).values(project=project_of_caller(), kind=kind, name=name, last=1)
    key = [VersionCount.project, VersionCount.kind, VersionCount.name]
    counted = first.on_conflict_do_update(index_elements=key, set_={"last": VersionCount.last + 1})
    number: int = session.scalars(counted.returning(VersionCount.last)).one()
    return number
