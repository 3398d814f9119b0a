"""Bodies of jobs and sweeps, from their rows."""

from collections.abc import Sequence
from typing import TypeVar

from sqlalchemy.orm import Session

from app.api.schemas import RunBody
from app.jobs import queries

SomeBody = TypeVar("SomeBody", bound=RunBody)


def bodies_of(kind: type[SomeBody], session: Session, jobs: Sequence[queries.JobRow]) -> list[SomeBody]:
    """Return the body of each job, with what it waits for."""
    reasons = queries.waiting_for(session, jobs)
    bodies = [kind.model_validate(job) for job in jobs]
    return [body.model_copy(update={"waiting_for": reasons.get(body.id)}) for body in bodies]
