"""Quotas: how much a project may have and do; the settings' unless the project has its own."""

from dataclasses import dataclass, fields, replace
from typing import Any

from sqlalchemy.orm import Session

from app.accounts import projects
from app.accounts.models import Project
from app.database import begin_writing
from app.settings import Settings


@dataclass(frozen=True)
class Quotas:
    """The most of each; None is no bound. `uploads` counts those that one API process receives at once."""

    bytes: int | None = None
    uploads: int | None = None
    jobs: int | None = None
    jobs_a_day: int | None = None
    requests_a_second: int | None = None


NO_QUOTAS = Quotas()
NAMES = tuple(field.name for field in fields(Quotas))


def usual_quotas(settings: Settings) -> Quotas:
    """Return the quotas of every project that has none of its own."""
    return Quotas(**{name: getattr(settings, f"quota_{name}") for name in NAMES})


def quotas_of(session: Session, settings: Settings, project: str) -> Quotas:
    """Return the quotas of a project; one that is no row has the settings'."""
    found = session.get(Project, project)
    own = {name: value for name, value in (found.limits if found else {}).items() if name in NAMES}
    return replace(usual_quotas(settings), **own)


def give(session: Session, project: str, changes: dict[str, Any]) -> Project:
    """Give a project quotas of its own; None takes one back. Raises NotFound."""
    begin_writing(session)
    row = projects.read(session, project)
    row.limits = {name: value for name, value in (row.limits | changes).items() if value is not None}
    session.commit()
    return row
