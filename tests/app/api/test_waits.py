"""Requests that wait for jobs: one poll for all of them, an end when the client goes, never an answer too early."""

import asyncio
import time
from collections import Counter
from typing import Any

import pytest
from sqlalchemy import Engine, event
from sqlalchemy.orm import Session, sessionmaker
from starlette.requests import ClientDisconnect
from starlette.types import Message

from app.api.bodies import bodies_of
from app.api.schemas import JobBody
from app.api.stopping import Stopping
from app.api.waits import MOST_BYTES, Waits
from app.jobs import service
from tests.factories import add_job

Receive = Any


async def stays() -> Message:
    await asyncio.Event().wait()
    raise AssertionError


@pytest.fixture
def statements(engine: Engine) -> Counter[str]:
    counted: Counter[str] = Counter()
    event.listen(engine, "before_cursor_execute", lambda *call: counted.update([call[2].split()[0]]))
    return counted


def bodies(session: Session, count: int) -> list[JobBody]:
    return bodies_of(JobBody, session, [add_job(session) for _ in range(count)])


def test_many_requests_share_one_query(
    session: Session, sessions: sessionmaker[Session], statements: Counter[str]
) -> None:
    jobs = bodies(session, 40)
    session.rollback()

    async def run() -> list[JobBody]:
        waits = Waits(sessions, 1000)
        asyncio.get_running_loop().call_later(0.6, statements.clear)
        asyncio.get_running_loop().call_later(1.6, lambda: seen.update(statements))
        return await asyncio.gather(*(waits.ended(job, 2, stays, Stopping()) for job in jobs for _ in range(5)))

    seen: Counter[str] = Counter()
    answers = asyncio.run(run())
    assert [job.state for job in answers] == ["queued"] * 200
    assert 1 <= seen["SELECT"] <= 5


def test_only_who_waits_for_a_job_that_ended_or_no_longer_is_answered(
    session: Session, sessions: sessionmaker[Session]
) -> None:
    ended, other = bodies(session, 2)

    async def run() -> tuple[JobBody, JobBody, bool, float]:
        waits = Waits(sessions, 1000)
        began = time.monotonic()
        patient, first = (asyncio.create_task(waits.ended(job, 60, stays, Stopping())) for job in (other, ended))
        short = await waits.ended(other, 0.3, stays, Stopping())
        assert not first.done()
        await asyncio.to_thread(service.request_cancel, session, ended.id)
        return short, await first, patient.done() or patient.cancel() is False, time.monotonic() - began

    short, first, too_early, seconds = asyncio.run(run())
    assert (short.state, first.state, too_early) == ("queued", "cancelled", False)
    assert seconds < 30


def test_a_client_that_goes_away_leaves_its_place(session: Session, sessions: sessionmaker[Session]) -> None:
    (job,) = bodies(session, 1)

    async def run() -> None:
        waits, gone = Waits(sessions, 1), asyncio.Event()

        async def leaves() -> Message:
            await gone.wait()
            return {"type": "http.disconnect"}

        waiting = asyncio.create_task(waits.ended(job, 60, leaves, Stopping()))
        await asyncio.sleep(0.05)
        assert not waits.has_room()
        gone.set()
        with pytest.raises(ClientDisconnect):
            await waiting
        assert waits.has_room()

    asyncio.run(run())


def test_a_process_that_stops_answers_who_waits_with_the_job_as_it_was(
    session: Session, sessions: sessionmaker[Session]
) -> None:
    jobs = bodies(session, 3)

    async def run() -> list[JobBody]:
        waits, stopping = Waits(sessions, 10), Stopping()
        waiting = [asyncio.create_task(waits.ended(job, 60, stays, stopping)) for job in jobs]
        await asyncio.sleep(0.05)
        stopping.begin()
        return [*await asyncio.gather(*waiting), await waits.ended(jobs[0], 60, stays, stopping)]

    assert asyncio.run(run()) == [*jobs, jobs[0]]


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_database_that_does_not_answer_ends_no_wait_early(session: Session, engine: Engine) -> None:
    (job,) = bodies(session, 1)

    def away() -> Session:
        return sessionmaker(engine)(bind=engine.execution_options(schema_translate_map={None: "nowhere"}))

    async def run() -> float:
        began = time.monotonic()
        assert await Waits(away, 10).ended(job, 1, stays, Stopping()) == job  # type: ignore[arg-type]
        return time.monotonic() - began

    assert asyncio.run(run()) >= 1


def test_large_requests_do_not_wait_beyond_a_bound(session: Session, sessions: sessionmaker[Session]) -> None:
    """Each keeps its recipe in memory; a thousand of a megabyte would take all of it."""
    (job,) = bodies(session, 1)

    async def run() -> None:
        waits, stopping = Waits(sessions, 1000), Stopping()
        waiting = [asyncio.create_task(waits.ended(job, 60, stays, stopping, MOST_BYTES // 4)) for _ in range(4)]
        await asyncio.sleep(0)
        assert waits.has_room(0)
        assert not waits.has_room(1)
        stopping.begin()
        await asyncio.gather(*waiting)
        assert waits.has_room(MOST_BYTES)

    asyncio.run(run())
