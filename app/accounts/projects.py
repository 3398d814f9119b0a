"""Projects: made by an operator, never by a caller."""

import re
from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.accounts import audit
from app.accounts.caller import called_in
from app.accounts.models import Project
from app.database import begin_writing, clock
from app.errors import Conflict, Invalid, NotFound

ProjectRow = Project
"""For annotations of those who may not name the tables."""

NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


def create(session: Session, name: str) -> Project:
    """Make a project. Raises Invalid for another kind of name, Conflict when there is one of this name."""
    if not NAME.fullmatch(name):
        raise Invalid(
            "project_invalid",
            f"{name[:64]!r} can't be the name of a project.",
            "Use at most 63 lower-case letters, digits and hyphens, with a letter or digit at both ends.",
        )
    begin_writing(session)
    if session.get(Project, name):
        raise Conflict("project_exists", f"There is a project {name} already.", "Use it, or choose another name.")
    project = Project(name=name, created_at=clock(session))
    session.add(project)
    audit.record(session, "project.created", name, called_in(name))
    session.commit()
    return project


def read(session: Session, name: str) -> Project:
    """Return a project. Raises NotFound."""
    found = session.get(Project, name)
    if found is None:
        raise NotFound("project_not_found", f"There is no project {name[:64]}.", "zeropoint projects create makes one.")
    return found


def exists(session: Session, name: str) -> bool:
    """Return whether there is such a project."""
    return session.scalar(select(Project.name).where(Project.name == name)) is not None


def every(session: Session) -> Sequence[Project]:
    """Return all projects, by name."""
    return session.scalars(select(Project).order_by(Project.name)).all()
