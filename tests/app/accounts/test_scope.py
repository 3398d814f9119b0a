"""Sessions of requests: to a caller, rows of other projects do not exist, whatever the statement."""

from collections.abc import Callable, Iterator

import pytest
from sqlalchemy import Engine, delete, func, select, update
from sqlalchemy.orm import Session, aliased, sessionmaker

from app.accounts.caller import called_by
from app.accounts.models import AuditEntry, Key
from app.accounts.scope import NobodyCalled, Owned, ScopedSession, create_scoped_sessions
from app.catalog.models import Dataset, Model
from app.database import Base
from app.jobs.models import Job, JobTag
from tests.factories import add_job, member_of

OWNED: set[type] = {mapper.class_ for mapper in Base.registry.mappers if issubclass(mapper.class_, Owned)}


@pytest.fixture
def scoped(engine: Engine) -> Iterator[ScopedSession]:
    with create_scoped_sessions(engine)() as session:
        yield session


@pytest.fixture
def jobs(sessions: sessionmaker[Session]) -> dict[str, str]:
    """A job of each of two projects."""
    with sessions() as session:
        return {project: add_job(session, project=project, tags=("t",)).id for project in ("ours", "theirs")}


def test_what_belongs_to_projects() -> None:
    assert {Model, Dataset, Job, Key, AuditEntry} <= OWNED


READS: dict[str, Callable[[Session], set[str]]] = {
    "entities": lambda session: {job.id for job in session.scalars(select(Job))},
    "columns": lambda session: set(session.scalars(select(Job.id))),
    "an alias": lambda session: set(session.scalars(select(aliased(Job).id))),
    "a join": lambda session: set(session.scalars(select(JobTag.job_id).join(Job, Job.id == JobTag.job_id))),
    "a subquery": lambda session: set(
        session.scalars(select(JobTag.job_id).where(JobTag.job_id.in_(select(Job.id).where(Job.id != ""))))
    ),
    "a union": lambda session: set(session.scalars(select(Job.id).union(select(Job.id).where(Job.id != "")))),
    "whole rows for a change": lambda session: {job.id for job in session.scalars(select(Job).with_for_update())},
}


@pytest.mark.parametrize("read", READS)
def test_a_query_sees_what_the_project_of_the_caller_owns(
    scoped: ScopedSession, jobs: dict[str, str], read: str
) -> None:
    for project, job_id in jobs.items():
        with called_by(member_of(project)):
            assert READS[read](scoped) == {job_id}
    with called_by(member_of("nobody's")):
        assert READS[read](scoped) == set()


def test_a_count_is_of_the_project(scoped: ScopedSession, jobs: dict[str, str]) -> None:
    with called_by(member_of("ours")):
        assert scoped.scalar(select(func.count()).select_from(Job)) == 1


def test_an_id_of_another_project_finds_nothing(scoped: ScopedSession, jobs: dict[str, str]) -> None:
    with called_by(member_of("ours")):
        assert scoped.get(Job, jobs["theirs"]) is None
        assert scoped.get(Job, jobs["theirs"], with_for_update=True) is None


def test_nothing_of_another_project_can_be_changed_or_deleted(
    scoped: ScopedSession, sessions: sessionmaker[Session], jobs: dict[str, str]
) -> None:
    with called_by(member_of("ours")):
        changed = scoped.scalars(update(Job).values(phase="mine").returning(Job.id)).all()
        scoped.execute(delete(JobTag).where(JobTag.job_id.in_(select(Job.id))))
        assert changed == [jobs["ours"]]
        scoped.execute(delete(Job).where(Job.id == jobs["theirs"]))
        scoped.commit()
    with sessions() as session:
        theirs = session.get_one(Job, jobs["theirs"])
        assert (theirs.phase, theirs.tags) == (None, ["t"])


def test_what_is_added_belongs_to_the_project_of_the_caller(session: Session, jobs: dict[str, str]) -> None:
    assert {job.project: job.id for job in session.scalars(select(Job))} == jobs


def test_without_a_caller_nothing_is_read(scoped: ScopedSession) -> None:
    with pytest.raises(NobodyCalled):
        scoped.scalar(select(Job.id))
