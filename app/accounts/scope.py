"""The one place that keeps projects apart: what is owned, and sessions that see only what the caller's project owns."""

from sqlalchemy import Engine, String, event
from sqlalchemy.orm import Mapped, ORMExecuteState, Session, mapped_column, sessionmaker, with_loader_criteria

from app.accounts.caller import DEFAULT_PROJECT, caller, project_of_caller


class NobodyCalled(RuntimeError):
    """A session that shows a caller what is theirs was asked without one: a mistake of ours, never an answer."""


class Owned:
    """A table whose rows belong to projects. What belongs to a row of it, as events to a job, is reached through it."""

    project: Mapped[str] = mapped_column(
        String(64), default=project_of_caller, server_default=DEFAULT_PROJECT, sort_order=-1
    )


class ScopedSession(Session):
    """A session for the one who calls: to it, rows of other projects do not exist. Without a caller it raises."""


def create_scoped_sessions(engine: Engine) -> sessionmaker[ScopedSession]:
    """Return the factory of sessions that show what the caller's project owns; rows stay readable after a commit."""
    return sessionmaker(engine, class_=ScopedSession, expire_on_commit=False)


@event.listens_for(ScopedSession, "do_orm_execute")
def _only_of_the_project(state: ORMExecuteState) -> None:
    """Add the caller's project to every SELECT, UPDATE and DELETE, wherever in it an owned table stands."""
    who = caller()
    if who is None:
        raise NobodyCalled("a scoped session was used, and nobody called")
    project = who.project
    only = with_loader_criteria(Owned, lambda table: table.project == project, include_aliases=True)
    state.statement = state.statement.options(only)
