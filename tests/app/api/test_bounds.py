"""The largest input that the limits allow meets every endpoint: no lock is held for long, and no list is large."""

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from sqlalchemy import Connection, Engine, event
from sqlalchemy.orm import Session, sessionmaker

from app.catalog.models import Dataset, Model
from app.catalog.service import DATASETS
from app.database import clock, new_id
from app.jobs import claims, endings, service
from app.jobs.submission import Submission
from app.jobs.work import QuantizeWork, SweepWork
from app.main import create_app
from app.settings import Settings
from tests.factories import MOST
from zeropoint.schema.job import Progress
from zeropoint.schema.recipe import Recipe
from zeropoint.schema.sweep import SweepEntry

LAYERS = 20_000
SECONDS = 1.0
"""Of processor time while others wait for the lock; reading the rows of such a model takes longer."""
STEP_SECONDS = 0.12
DEEP = "encoder_block_with_a_long_name." * 5

STORED = {"bytes": 1, "sha256": "a" * 64, "stored_bytes": 1, "stored_sha256": "a" * 64}


@pytest.fixture
def uploads(sessions: sessionmaker[Session]) -> dict[str, str]:
    """A model of 20,000 layers and a dataset of as many tensors, both with names of 200 characters."""
    names = [f"model.{DEEP}{number:06d}.{'sub' * 8}" for number in range(LAYERS)]
    layers = [
        {"name": name, "type": "Linear", "weight_shape": [4, 4], "parameters": 16, "tensors": [f"{name}.weight"]}
        for name in names
    ]
    tensors = [{"name": name, "dtype": "float32", "shape": [4, 4]} for name in names]
    with sessions() as session:
        at = clock(session)
        shared = {**STORED, "name": "large", "created_at": at}
        model = Model(
            id=new_id("mdl", at), format="pt2", inputs=tensors, layers=layers, parameters=16 * LAYERS, **shared
        )
        dataset = Dataset(id=new_id("dts", at), samples=4, tensors=tensors, **shared)
        session.add_all([model, dataset])
        session.commit()
        return {"model": model.id, "dataset": dataset.id}


@contextmanager
def writing_times(engine: Engine) -> Iterator[list[float]]:
    """Collect the processor time of this thread within each transaction that writes."""
    times: list[float] = []
    begun: dict[int, float] = {}

    def begin(connection: Connection) -> None:
        if "sqlite_begin" in connection.get_execution_options():
            begun[id(connection)] = time.thread_time()

    def end(connection: Connection) -> None:
        if id(connection) in begun:
            times.append(time.thread_time() - begun.pop(id(connection)))

    listeners = [("begin", begin), ("commit", end), ("rollback", end)]
    for name, listener in listeners:
        event.listen(engine, name, listener)
    try:
        yield times
    finally:
        for name, listener in listeners:
            event.remove(engine, name, listener)


def test_nobody_waits_while_a_large_model_is_looked_at(
    engine: Engine, sessions: sessionmaker[Session], uploads: dict[str, str]
) -> None:
    largest = Recipe(exclude=tuple(f"model.{DEEP}{number:06d}.{'sub' * 8}" for number in range(3000)))
    job = Submission(uploads["model"], QuantizeWork(largest), uploads["dataset"])
    entries = tuple(SweepEntry(name=str(number), recipe=largest) for number in range(4))
    with writing_times(engine) as times, sessions() as session:
        service.request_cancel(session, service.submit(session, job, MOST).id)
        service.submit(session, Submission(uploads["model"], SweepWork(entries), uploads["dataset"]), MOST)
        service.submit(session, job, MOST)
        for _ in range(2):
            claim = claims.claim(session, "cpu", "worker", 60)
            assert claim is not None
            claims.renew(session, claim, 60)
            claims.report_progress(session, claim, Progress(phase="loading", done=0, total=1), None)
            assert endings.succeed(session, claim, "passed", [])
        service.delete(session, DATASETS, uploads["dataset"])
    assert len(times) == 13
    assert max(times) < SECONDS, times


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)  # it is answered before anything is written
@pytest.mark.parametrize(
    ("change", "code", "most"),
    [
        ({"exclude": [f"nothing {number} of this name" for number in range(10_000)]}, "recipe_matches_nothing", 100),
        ({"exclude": [f"no.{DEEP}{number}" for number in range(3000)]}, "recipe_matches_nothing", 100),
        ({"exclude": [f"no {number}*" for number in range(20)]}, "recipe_matches_nothing", 20),
        ({"exclude": [f"*{number}*e*e*e" for number in range(1000)]}, "recipe_too_demanding", 1),
        ({"layer_types": ["Linea"] * 10_000}, "recipe_matches_nothing", 100),
        ({"overrides": [{"names": [1] * 10_000}] * 4}, "request_invalid", 1),
        ({f"key {number}": 1 for number in range(40_000)}, "request_invalid", 1),
        ({f"key {number}": 1 for number in range(900)}, "request_invalid", 100),
    ],
)
def test_what_matches_nothing_is_answered_in_few_words(
    client: httpx.Client, uploads: dict[str, str], change: dict[str, Any], code: str, most: int
) -> None:
    before = time.process_time()
    answer = client.post("/v1/jobs", json={**uploads, "recipe": change})
    assert (answer.json()["code"], len(answer.json()["errors"])) == (code, most)
    assert len(answer.content) < 64 * 2**10
    assert time.process_time() - before < 10 * SECONDS


def test_a_body_of_too_many_values_is_not_looked_at(client: httpx.Client, uploads: dict[str, str]) -> None:
    answer = client.post("/v1/jobs", json={**uploads, "recipe": {"include": [1] * 100_000}})
    assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")


def test_a_dataset_that_fits_in_nothing_is_answered_in_few_words(
    client: httpx.Client, sessions: sessionmaker[Session], uploads: dict[str, str]
) -> None:
    tensors = [{"name": f"{'x' * 200}{number}", "dtype": "float16", "shape": [4]} for number in range(LAYERS)]
    with sessions() as session:
        at = clock(session)
        dataset = Dataset(id=new_id("dts", at), samples=4, tensors=tensors, name="other", created_at=at, **STORED)
        session.add(dataset)
        session.commit()
    answer = client.post("/v1/jobs", json={**uploads, "dataset": dataset.id, "preset": "int8-static"})
    assert answer.json()["code"] == "dataset_does_not_fit"
    assert answer.json()["more_errors"] == 2 * LAYERS - len(answer.json()["errors"])
    assert len(answer.content) < 64 * 2**10


ASKED: dict[str, Callable[[dict[str, str]], tuple[str, str, Any]]] = {
    "a model": lambda ids: ("GET", f"/v1/models/{ids['model']}", None),
    "a dataset": lambda ids: ("GET", f"/v1/datasets/{ids['dataset']}", None),
    "the contract": lambda _: ("GET", "/openapi.json", None),
    "unknown keys": lambda _: ("POST", "/v1/jobs", {f"key {number}": 1 for number in range(40_000)}),
    "objects": lambda _: ("POST", "/v1/sweeps", {"recipes": [{"a": 1}] * 40_000}),
    "wrong names": lambda _: ("POST", "/v1/jobs", {"recipe": {"overrides": [{"names": [1] * 9_000}] * 5}}),
    "wrong objects": lambda _: ("POST", "/v1/jobs", {"recipe": {"overrides": [dict.fromkeys("abcdefgh", 1)] * 900}}),
    "a recipe": lambda ids: ("POST", "/v1/jobs", {**ids, "recipe": {"exclude": [f"*.{n:09}" for n in range(9_000)]}}),
}


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize("asked", ASKED.values(), ids=ASKED)
def test_no_request_keeps_the_event_loop_for_long(
    settings: Settings, uploads: dict[str, str], asked: Callable[[dict[str, str]], tuple[str, str, Any]]
) -> None:
    """Processor time of the event loop's own thread between two turns: what others wait, whatever else computes."""
    method, path, wish = asked(uploads)
    content = None if wish is None else json.dumps(wish).encode()
    steps = [0.0]

    async def watch() -> None:
        began = time.thread_time()
        while True:
            await asyncio.sleep(0.001)
            now = time.thread_time()
            steps.append(now - began)
            began = now

    async def run() -> int:
        app = create_app(settings, reconciles=False)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://api") as client:
            watching = asyncio.create_task(watch())
            await asyncio.sleep(0.01)
            headers = {"Content-Type": "application/json"}
            answer = await client.request(method, path, content=content, headers=headers, timeout=60)
            watching.cancel()
        app.state.services.engine.dispose()
        app.state.services.celery.close()
        return answer.status_code

    assert asyncio.run(run()) < 500
    assert max(steps) < STEP_SECONDS


LISTS: dict[str, Callable[[dict[str, str]], str]] = {
    "models": lambda _: "/v1/models?limit=100",
    "datasets": lambda _: "/v1/datasets?limit=100",
    "jobs": lambda _: "/v1/jobs?limit=100",
    "sweeps": lambda _: "/v1/sweeps?limit=100",
    "events": lambda ids: f"/v1/jobs/{ids['job']}/events",
    "attempts": lambda ids: f"/v1/jobs/{ids['job']}/attempts",
}


def test_lists_are_pages_of_small_rows(client: httpx.Client, uploads: dict[str, str]) -> None:
    recipe = {"exclude": [f"model.{DEEP}{number:06d}.{'sub' * 8}" for number in range(3000)]}
    job = client.post("/v1/jobs", json={**uploads, "recipe": recipe})
    sweep = client.post("/v1/sweeps", json={**uploads, "recipes": [{"recipe": recipe}] * 2})
    assert (job.status_code, sweep.status_code) == (202, 413) or (job.status_code, sweep.status_code) == (202, 202)
    for name, address in LISTS.items():
        answer = client.get(address({"job": job.json()["id"]}))
        assert answer.status_code == 200, name
        rows = answer.json()["items"]
        assert len(answer.content) < 4096 * max(1, len(rows)), name


def test_what_is_read_whole_is_whole(client: httpx.Client, uploads: dict[str, str]) -> None:
    assert len(client.get(f"/v1/models/{uploads['model']}").json()["layers"]) == LAYERS
    assert len(client.get(f"/v1/datasets/{uploads['dataset']}").json()["tensors"]) == LAYERS
