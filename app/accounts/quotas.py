"""Quotas: how much a project may have and do; the settings' unless the project has its own."""

from dataclasses import dataclass, fields, replace
from typing import Any

from sqlalchemy.orm import Session

from app.accounts import audit, projects
from app.accounts.caller import called_in
from app.accounts.models import Project
from app.database import begin_writing
from app.errors import Invalid
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
LEAST = Quotas(bytes=0, uploads=0, jobs=0, jobs_a_day=0, requests_a_second=1)
MOST = Quotas(bytes=2**60, uploads=1_000_000, jobs=1_000_000, jobs_a_day=1_000_000, requests_a_second=1_000_000)
"""The bounds of the settings too."""
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
    """Give a project quotas of its own; None takes one back. Raises Invalid, NotFound."""
    _check(changes)
    begin_writing(session)
    row = projects.read(session, project)
    limits = {name: value for name, value in (row.limits | changes).items() if value is not None}
    if limits != row.limits:
        row.limits = limits
        audit.record(session, "project.limited", project, called_in(project))
    session.commit()
    return row


def _check(changes: dict[str, Any]) -> None:
    for name, value in changes.items():
        least, most = getattr(LEAST, name), getattr(MOST, name)
        if value is not None and not least <= value <= most:
            detail = f"The quota {name} can't be {value}."
            raise Invalid("request_invalid", detail, f"Use a number from {least} to {most}.")
