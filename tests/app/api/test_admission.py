"""Every endpoint beside every resource that is used up: an answer in time, a refusal that says when to come back."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, fields
from datetime import timedelta
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from anyio.to_thread import current_default_thread_limiter
from sqlalchemy import Engine, text
from sqlalchemy.orm import Session, sessionmaker

from app.accounts import keys
from app.accounts.caller import DEFAULT_PROJECT, Role
from app.api.admission import Admission, Places, database_busy
from app.api.body_limit import SMALL_BYTES
from app.api.dependencies import Services
from app.database import Base, create_engine_for
from app.errors import Unavailable
from app.jobs import endings
from app.jobs.endings import Product
from app.main import create_app
from app.settings import Settings
from app.storage import Storage
from app.uploads import service as uploads
from app.uploads.service import NewUpload
from app.webhooks import service as webhooks
from app.webhooks.outbox import ENDS
from tests.factories import add_dataset, add_job, add_model, claim_one, safetensors
from tests.tus import PART, VERSION, metadata

HEALTH = ("/healthz", "/readyz", "/metrics")
HEALTH_SECONDS = 1.0
REQUEST_SECONDS = 15.0
SMALL = {"gates": 1, "gate_queue": 0, "database_connections": 2, "database_queue": 0, "waits": 0}
REPORT = "report.json"
PLACES = [field.name for field in fields(Admission)]

Hold = Callable[[Services], Any]


@dataclass(frozen=True)
class Call:
    """One request of the table."""

    method: str
    path: str
    options: dict[str, Any]

    @property
    def is_health(self) -> bool:
        return self.path in HEALTH


@pytest.fixture
def calls(session: Session, storage: Storage, archive: Path) -> list[Call]:
    """Every operation of the contract, on resources that there are."""
    model, dataset = add_model(session, storage, archive), add_dataset(session, storage, DATA)
    job = add_job(session)
    with storage.writer() as writer:
        writer.write(b'{"verdict": "passed"}')
        products = [Product(REPORT, "report", writer.commit())]
    endings.succeed(session, claim_one(session), "passed", products)
    known = {
        "model_id": model.id,
        "dataset_id": dataset.id,
        "job_id": job.id,
        "sweep_id": "swp_0",
        "name": "report.json",
        "key_id": keys.create(session, DEFAULT_PROJECT, "key", Role.READER).row.id,
        "webhook_id": webhooks.create(session, "https://hooks.example/", ENDS).row.id,
        "upload_id": uploads.create(session, NewUpload("dataset", "a", "a", 10), timedelta(hours=1)).id,
    }
    wish = {"model": model.id, "preset": "int8-weight-only"}
    sweep = {"model": model.id, "dataset": dataset.id, "recipes": [{"preset": "int8-static"}] * 2}
    large = json.dumps(sweep) + " " * SMALL_BYTES
    content: dict[str, dict[str, Any]] = {
        "/v1/jobs": {"json": wish, "headers": {"Prefer": "wait=1"}},
        "/v1/sweeps": {"content": large.encode(), "headers": {"Content-Type": "application/json"}},
        "/v1/keys": {"json": {"name": "key", "role": "reader"}},
        "/v1/keys/{key_id}/rotate": {"json": {}},
        "/v1/webhooks": {"json": {"url": "https://hooks.example/"}},
        "/v1/webhooks/{webhook_id}": {"json": {"description": "d"}},
        "/v1/webhooks/{webhook_id}/rotate": {"json": {}},
        "/v1/webhooks/{webhook_id}/redeliver": {"json": {}},
        "/v1/jobs/{job_id}": {"json": {"tags": ["a"]}},
        "/v1/sweeps/{sweep_id}": {"json": {"tags": ["a"]}},
        "/v1/models": {"content": archive.read_bytes()},
        "/v1/datasets": {"content": DATA},
        "/v1/uploads": {"headers": {**VERSION, "Upload-Length": "9", "Upload-Metadata": metadata(purpose="model")}},
        "/v1/uploads/{upload_id}": {"content": b"part", "headers": {**PART, "Upload-Offset": "0"}},
        "/v1/imports": {"json": {"purpose": "model", "source": "https://example.org/"}},
    }
    asked: dict[str, dict[str, Any]] = {"/v1/artifacts": {"params": {"job": job.id}}}
    session.rollback()  # an open transaction would keep others from locking tables
    return [
        Call(method.upper(), path.format(**known), (content if method in ("post", "patch") else asked).get(path, {}))
        for path, operations in create_app(Settings(database_url="sqlite://"), reconciles=False)
        .openapi()["paths"]
        .items()
        for method in operations
    ]


DATA = safetensors(x=("F32", [4, 3]))


Answer = tuple[Call, httpx.Response, float]


async def timed(client: httpx.AsyncClient, call: Call) -> Answer:
    began = time.monotonic()
    answer = await client.request(call.method, call.path, **call.options)
    return call, answer, time.monotonic() - began


def ask_all(settings: Settings, calls: list[Call], hold: Hold, *, at_once: bool = True) -> list[Answer]:
    """Send all requests to an API with one place of each kind and no queues, while something is held."""

    async def ask() -> list[Answer]:
        app = create_app(settings.model_copy(update=SMALL), reconciles=False)
        services: Services = app.state.services
        services.admission.files._queue = 0  # its queue is no setting
        transport = httpx.ASGITransport(app)
        async with hold(services), httpx.AsyncClient(transport=transport, base_url="http://api") as client:
            if at_once:
                answers = await asyncio.gather(*(timed(client, call) for call in calls))
            else:
                answers = [await timed(client, call) for call in calls]
        for field in fields(services.probes):  # they may still wait for a connection
            if running := getattr(services.probes, field.name)._running:
                await asyncio.wait({running})
        until = time.monotonic() + 30
        for seen in (services.observed.figures.seen, services.observed.stored.seen):
            await asyncio.to_thread(seen, until)
        for part in services.observed.parts.values():
            await asyncio.to_thread(part.seen, until)
        services.engine.dispose()
        services.celery.close()
        return answers

    return asyncio.run(ask())


def check(answers: list[Answer]) -> None:
    """Every answer came in time; none says that the service failed; each 503 says when to ask again."""
    for call, answer, seconds in answers:
        assert seconds < (HEALTH_SECONDS if call.is_health else REQUEST_SECONDS), call
        assert answer.status_code < 500 or answer.status_code == 503, (call, answer.text)
        if answer.status_code == 503:
            assert int(answer.headers["Retry-After"]) > 0, call
            assert answer.json()["remedy"], call


def codes(answers: list[Answer]) -> dict[str, str]:
    return {
        f"{call.method} {call.path.partition('?')[0]}": answer.json()["code"]
        for call, answer, _ in answers
        if answer.status_code == 503 and call.path != "/readyz"
    }


@asynccontextmanager
async def nothing_held(_services: Services) -> AsyncIterator[None]:
    yield


def places_held(name: str) -> Hold:
    @asynccontextmanager
    async def hold(services: Services) -> AsyncIterator[None]:
        places: Places = getattr(services.admission, name)
        async with AsyncExitStack() as held:
            for _ in range(places.at_once):
                await held.enter_async_context(places.taken())
            yield

    return hold


@asynccontextmanager
async def connections_held(services: Services) -> AsyncIterator[None]:
    """Others have every connection of the pool."""
    pool: Any = services.engine.pool
    held = [services.engine.connect() for _ in range(pool.size() + pool._max_overflow)]
    yield
    for connection in held:
        connection.close()


@contextmanager
def locked(engine: Engine, mode: str) -> Iterator[None]:
    """Another transaction has the lock of all who write; in PostgreSQL's mode ACCESS EXCLUSIVE of all who read too."""
    with engine.connect() as connection:
        if engine.dialect.name == "sqlite":
            connection.execution_options(sqlite_begin="BEGIN IMMEDIATE")
            connection.execute(text("SELECT 1"))
        else:
            tables = ", ".join(table.name for table in Base.metadata.sorted_tables)
            connection.execute(text(f"LOCK TABLE {tables} IN {mode} MODE"))
        yield
        connection.rollback()


def lock_held(settings: Settings, mode: str) -> Hold:
    @asynccontextmanager
    async def hold(_services: Services) -> AsyncIterator[None]:
        engine = create_engine_for(settings)
        try:
            with locked(engine, mode):
                yield
        finally:
            engine.dispose()

    return hold


def test_with_everything_free_no_endpoint_is_refused(settings: Settings, calls: list[Call]) -> None:
    """Else the tests below would see nothing. One after another: there is one place of each kind."""
    assert len(calls) > 20
    answers = ask_all(settings, calls, nothing_held, at_once=False)
    check(answers)
    assert not codes(answers)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize("name", PLACES)
def test_beside_places_that_are_taken(settings: Settings, calls: list[Call], name: str) -> None:
    answers = ask_all(settings, calls, places_held(name))
    check(answers)
    refused = codes(answers)
    assert refused, "nothing needs these places"
    assert ("database_busy" if name in ("reading", "writing") else "busy") in refused.values()


def test_beside_a_pool_without_connections(settings: Settings, calls: list[Call]) -> None:
    answers = ask_all(settings, calls, connections_held)
    check(answers)
    assert "database_busy" in codes(answers).values()
    (ready,) = [answer for call, answer, _ in answers if call.path == "/readyz"]
    late = {fault["pointer"]: fault["detail"] for fault in ready.json()["errors"]}
    assert late["/database"] == "it did not answer in time"


@pytest.mark.parametrize("mode", ["EXCLUSIVE", "ACCESS EXCLUSIVE"])
def test_beside_a_lock_that_is_held(settings: Settings, calls: list[Call], mode: str) -> None:
    answers = ask_all(settings, calls, lock_held(settings, mode))
    check(answers)
    refused = codes(answers)
    assert refused["POST /v1/jobs"] == "database_busy"
    if mode == "EXCLUSIVE":
        assert not [call for call in refused if call.startswith("GET /v1/presets")]
        assert any(call.is_health and answer.status_code == 200 for call, answer, _ in answers)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_health_beside_threads_that_are_all_used(settings: Settings) -> None:
    @asynccontextmanager
    async def threads_held(_services: Services) -> AsyncIterator[None]:
        limiter = current_default_thread_limiter()
        borrowers = [object() for _ in range(int(limiter.total_tokens))]
        for borrower in borrowers:
            limiter.acquire_on_behalf_of_nowait(borrower)
        yield
        for borrower in borrowers:
            limiter.release_on_behalf_of(borrower)

    check(ask_all(settings, [Call("GET", path, {}) for path in HEALTH], threads_held))


def test_without_migrations_every_endpoint_says_so(settings: Settings, calls: list[Call], engine: Engine) -> None:
    with engine.begin() as connection:
        for table in reversed(Base.metadata.sorted_tables):
            connection.execute(text(f"DROP TABLE {table.name}"))
    answers = ask_all(settings, calls, nothing_held, at_once=False)
    check(answers)
    for call, answer, _ in answers:
        if answer.status_code == 503 and call.path != "/readyz":
            assert answer.json()["code"] == "not_ready"
            assert "zeropoint migrate" in answer.json()["remedy"]
        else:
            assert call.path in ("/healthz", "/readyz", "/metrics", "/v1/presets", "/v1/imports"), (call, answer.text)


def test_a_queue_is_bounded_and_lets_in_who_came_first() -> None:
    async def run() -> list[int]:
        places, order = Places(1, 2, 60, database_busy), []

        async def work(number: int) -> None:
            async with places.taken():
                order.append(number)
                await asyncio.sleep(0.01)

        async with anyio.create_task_group() as group:
            for number in range(3):
                group.start_soon(work, number)
                await asyncio.sleep(0)
            with pytest.raises(Unavailable):
                places.check()
            with pytest.raises(Unavailable):
                await places.run(int)
        places.check()
        return order

    assert asyncio.run(run()) == [0, 1, 2]


def test_who_waits_too_long_is_refused_and_leaves_the_queue() -> None:
    async def run() -> None:
        places = Places(1, 1, 0.05, database_busy)
        async with places.taken():
            for _ in range(3):
                with pytest.raises(Unavailable, match="busy"):
                    await places.run(int)
        assert await places.run(int, "7") == 7

    asyncio.run(run())


def test_who_goes_away_while_waiting_leaves_the_queue() -> None:
    async def run() -> None:
        places = Places(1, 1, 60, database_busy)
        async with places.taken():
            waiting = asyncio.create_task(places.run(int))
            await asyncio.sleep(0.01)
            waiting.cancel()
            await asyncio.sleep(0.01)
            places.check()
        assert await places.run(int) == 0

    asyncio.run(run())


def test_work_that_fails_gives_its_place_back(sessions: sessionmaker[Session]) -> None:
    async def run() -> None:
        places = Places(1, 0, 60, database_busy)
        for _ in range(3):
            with pytest.raises(ValueError, match="x"):
                await places.run(int, "x")

    asyncio.run(run())
