"""Who calls: a project, a role in it, and the name under which the audit trail lists what was done."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from enum import StrEnum

DEFAULT_PROJECT = "default"
"""The project of everyone where accounts are off, and of all rows from before there were projects."""


class Role(StrEnum):
    """What a caller may do in its project; each role may do what those before it may."""

    READER = "reader"
    SUBMITTER = "submitter"
    ADMIN = "admin"

    def includes(self, other: "Role") -> bool:
        """Return whether this role may do all that the other one may."""
        order = list(Role)
        return order.index(self) >= order.index(other)


@dataclass(frozen=True)
class Caller:
    """One who calls; `actor` is the id of a key, the subject of a token, or a word for what has neither."""

    project: str
    role: Role
    actor: str


ANYONE = Caller(DEFAULT_PROJECT, Role.ADMIN, "anyone")
"""The caller where accounts are off."""

_caller: ContextVar[Caller | None] = ContextVar("caller", default=None)


def caller() -> Caller | None:
    """Return who called what runs now; None for work that nobody called, such as collecting garbage."""
    return _caller.get()


def project_of_caller() -> str:
    """Return the project of the one who called; the default one for work that nobody called."""
    who = _caller.get()
    return who.project if who else DEFAULT_PROJECT


def called_in(project: str) -> Caller:
    """Return the one who called, in another project: what is done to a project is in its own audit trail."""
    return replace(_caller.get() or ANYONE, project=project)


@contextmanager
def called_by(who: Caller) -> Iterator[None]:
    """Let all that the block runs, also in threads that work for it, be called by somebody."""
    token = _caller.set(who)
    try:
        yield
    finally:
        _caller.reset(token)
