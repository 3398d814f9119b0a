"""Positions of events: one order, in which nothing comes in front of what was read."""

import threading
from collections.abc import Sequence

import pytest
from sqlalchemy import delete, text
from sqlalchemy.orm import Session, sessionmaker

from app.accounts.caller import called_by
from app.accounts.scope import ScopedSession, create_scoped_sessions
from app.database import begin_writing, migrate
from app.jobs import publishing, repository, service
from app.jobs.models import Job, JobEvent
from app.settings import Settings
from tests.factories import add_job, claim_one, member_of

ON_POSTGRESQL = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)


def read(session: Session, after: int = 0) -> list[tuple[int | None, str, int]]:
    """What is published behind a position, as a fresh read."""
    session.rollback()
    rows: Sequence[JobEvent] = publishing.published(session, after, 1000)
    return [(row.position, row.job_id, row.seq) for row in rows]


def test_events_get_positions_in_the_order_of_their_history(session: Session) -> None:
    jobs = [add_job(session) for _ in range(3)]
    claim_one(session)
    service.request_cancel(session, jobs[2].id)
    assert read(session) == []
    assert publishing.publish(session) == 5
    assert publishing.publish(session) == 0
    found = read(session)
    assert [position for position, _, _ in found] == [1, 2, 3, 4, 5]
    assert found[:3] == [(n + 1, job.id, 1) for n, job in enumerate(jobs)]
    assert publishing.last_position(session) == 5
    assert read(session, 3) == found[3:]


@ON_POSTGRESQL
def test_an_event_of_a_transaction_that_commits_late_is_not_skipped(sessions: sessionmaker[Session]) -> None:
    """The first to write is the last to commit: a number that it had taken then would lie behind every reader."""
    with sessions() as reader, sessions() as early, sessions() as late:
        first, second = add_job(reader).id, add_job(reader).id
        publishing.publish(reader)
        begin_writing(early)
        repository.add_event(early, first, "state", {"state": "running"})
        early.flush()
        service.request_cancel(late, second)
        assert publishing.publish(reader) == 1  # and nobody waits for the transaction that is held
        seen = read(reader)
        assert seen[-1] == (3, second, 2)
        early.commit()
        assert publishing.publish(reader) == 1
        assert read(reader, after=3) == [(4, first, 2)]


@ON_POSTGRESQL
def test_while_one_publishes_another_does_not_and_a_reader_sees_all_or_nothing(sessions: sessionmaker[Session]) -> None:
    publishes, go_on = threading.Event(), threading.Event()

    def stay(_session: Session, _events: Sequence[JobEvent]) -> None:
        publishes.set()
        assert go_on.wait(30)

    def publish() -> None:
        with sessions() as session:
            assert publishing.publish(session, stay) == 2

    with sessions() as session:
        for _ in range(2):
            add_job(session)
        thread = threading.Thread(target=publish)
        thread.start()
        assert publishes.wait(30)
        add_job(session)
        assert publishing.publish(session) == 0
        assert read(session) == []
        go_on.set()
        thread.join()
        assert [position for position, _, _ in read(session)] == [1, 2]
        assert publishing.publish(session) == 1


def test_many_publishers_and_writers_give_each_reader_every_event_once(sessions: sessionmaker[Session]) -> None:
    """In the order of positions, whoever writes and publishes meanwhile."""
    with sessions() as session:
        jobs = [add_job(session).id for _ in range(4)]
    written, seen = threading.Event(), dict[int, list[tuple[str, int]]]()

    def write(job: str) -> None:
        for number in range(10):
            with sessions() as session:
                begin_writing(session)
                repository.add_event(session, job, "phase", {"phase": str(number)})
                session.commit()

    def follow(number: int) -> None:
        seen[number], position = [], 0
        with sessions() as session:
            while not (written.is_set() and len(seen[number]) >= 44):
                publishing.publish(session)
                found = read(session, position)
                seen[number] += [(job, seq) for _, job, seq in found]
                position = max([place or 0 for place, _, _ in found], default=position)

    writers = [threading.Thread(target=write, args=(job,)) for job in jobs]
    readers = [threading.Thread(target=follow, args=(number,)) for number in range(2)]
    for thread in (*writers, *readers):
        thread.start()
    for thread in writers:
        thread.join()
    written.set()
    for thread in readers:
        thread.join(60)
    assert seen[0] == seen[1]
    assert sorted(seen[0]) == sorted((job, seq) for job in jobs for seq in range(1, 12))
    for job in jobs:
        assert [seq for name, seq in seen[0] if name == job] == list(range(1, 12))


def test_positions_are_not_given_again_when_jobs_are_deleted(session: Session) -> None:
    add_job(session)
    publishing.publish(session)
    session.execute(delete(JobEvent))
    session.execute(delete(Job))
    session.commit()
    add_job(session)
    publishing.publish(session)
    assert [position for position, _, _ in read(session)] == [2]


def test_a_long_history_is_published_in_parts(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publishing, "BATCH", 2)
    jobs = [add_job(session).id for _ in range(5)]
    assert publishing.publish(session) == 5
    assert [(position, job) for position, job, _ in read(session)] == [(n + 1, job) for n, job in enumerate(jobs)]


def test_what_goes_with_an_event_is_there_exactly_if_its_position_is(session: Session) -> None:
    add_job(session)

    def fail(_session: Session, _events: Sequence[JobEvent]) -> None:
        raise KeyError

    with pytest.raises(KeyError):
        publishing.publish(session, fail)
    assert read(session) == []
    assert publishing.publish(session) == 1


def test_events_are_those_of_the_caller_s_project(session: Session, sessions: sessionmaker[Session]) -> None:
    ours, theirs = add_job(session, project="ours").id, add_job(session, project="theirs").id
    publishing.publish(session)
    scoped: sessionmaker[ScopedSession] = create_scoped_sessions(session.get_bind())  # type: ignore[arg-type]
    for project, job in (("ours", ours), ("theirs", theirs)):
        with called_by(member_of(project)), scoped() as mine:
            assert [row.job_id for row in publishing.published(mine, 0, 10)] == [job]


def test_events_of_an_older_version_have_positions(session: Session, settings: Settings) -> None:
    migrate(settings, "base")
    migrate(settings, "0013")
    columns = (
        "project, id, kind, state, done, total, model_id, recipe, device, wanted_device, priority, token, attempts, "
        "events, owner, pending_seconds, running_seconds, pending_until, request_sha256, created_at"
    )
    row = "'quantize', 'queued', 0, 0, 'm', '{}', 'cpu', 'cpu', 0, 0, 0, 2, 'o', 1, 1, '2026-01-01', 'a', '2026-01-01'"
    for number, project in enumerate(("ours", "theirs")):
        session.execute(text(f"INSERT INTO jobs ({columns}) VALUES ('{project}', 'job_{number}', {row})"))
        for seq in (1, 2):
            event = f"'job_{number}', {seq}, '2026-01-01 00:00:0{3 * seq - number}', 'state', '{{}}'"
            session.execute(text(f"INSERT INTO job_events (job_id, seq, at, kind, data) VALUES ({event})"))
    session.commit()
    migrate(settings)
    assert read(session) == [(1, "job_1", 1), (2, "job_0", 1), (3, "job_1", 2), (4, "job_0", 2)]
    assert [row.project for row in publishing.published(session, 0, 2)] == ["theirs", "ours"]
    assert publishing.last_position(session) == 4
