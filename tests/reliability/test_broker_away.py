"""Redis is stopped, emptied, or never answers: submits are answered at once, and no job is lost."""

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import httpx
import pytest
import redis
from sqlalchemy.orm import Session

from app.jobs import reconciler
from app.jobs.queue import create_celery
from app.main import create_app
from app.settings import Settings
from tests.app.jobs.test_queue import waiting
from tests.factories import add_job
from tests.reliability.running_worker import environment_of, worker
from tests.reliability.world import World
from tests.servers import api_thread, free_port, redis_server
from tests.service.processes import eventually

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

ANSWER_SECONDS = 1.8
"""Whoever waits for the broker waits for two seconds at least: see broker_connection_timeout."""
Broker = Callable[[int], AbstractContextManager[object]]


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def settings(settings: Settings, port: int) -> Settings:
    return settings.model_copy(update={"broker_url": f"redis://127.0.0.1:{port}/0", "reconcile_seconds": 0.5})


@pytest.fixture
def api(settings: Settings) -> Iterator[httpx.Client]:
    """An API that looks for lost jobs, as a process does."""
    with api_thread(create_app(settings)) as client:
        yield client


@contextmanager
def nobody(port: int) -> Iterator[None]:
    yield


@contextmanager
def black_hole(port: int) -> Iterator[None]:
    """Takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", port), backlog=100):
        yield


def submit(api: httpx.Client, model_id: str) -> tuple[str, float]:
    began = time.monotonic()
    recipe = {"activations": None, "formats": ["safetensors"]}
    answer = api.post("/v1/jobs", json={"model": model_id, "recipe": recipe})
    assert answer.status_code == 202, answer.text
    job_id: str = answer.json()["id"]
    return job_id, time.monotonic() - began


@pytest.mark.timed
@pytest.mark.parametrize("broker", [nobody, black_hole], ids=lambda broker: broker.__name__)
def test_a_submit_does_not_wait_for_the_broker(
    broker: Broker, api: httpx.Client, world: World, port: int, tmp_path: Path
) -> None:
    model_id = world.add_model()
    with broker(port):
        time.sleep(1)  # somebody looks for lost jobs meanwhile, and hangs
        seconds = [submit(api, model_id)[1] for _ in range(5)]
        assert max(seconds) < ANSWER_SECONDS
        assert api.get("/healthz").status_code == 200
    celery = create_celery(world.settings)
    with redis_server(tmp_path, port):
        eventually(lambda: waiting(celery, "cpu") == len(seconds))
    celery.close()


def test_hints_that_were_flushed_are_sent_again(
    session: Session, settings: Settings, port: int, tmp_path: Path
) -> None:
    celery = create_celery(settings)
    with redis_server(tmp_path, port) as url, redis.Redis.from_url(url) as server:
        for _ in range(3):
            add_job(session)
        reconciler.look(settings, celery)
        server.flushall()
        assert waiting(celery, "cpu") == 0
        reconciler.look(settings, celery)
        assert waiting(celery, "cpu") == 3
    celery.close()


@pytest.mark.own_service
def test_a_worker_goes_on_when_its_redis_is_flushed_stopped_and_back(
    world: World, api: httpx.Client, settings: Settings, port: int, tmp_path: Path
) -> None:
    model_id = world.add_model()

    def done(job_id: str) -> bool:
        return {job.id: job.state for job in world.jobs()}[job_id] == "succeeded"

    with redis_server(tmp_path, port) as url:
        running = worker("worker@here", environment_of(settings), tmp_path / "worker.log")
        with running, redis.Redis.from_url(url) as server:
            eventually(lambda: b"ready" in (tmp_path / "worker.log").read_bytes())
            server.flushall()
            flushed, _ = submit(api, model_id)
            eventually(lambda: done(flushed))
            server.shutdown(nosave=True)
            stopped, seconds = submit(api, model_id)
            assert seconds < ANSWER_SECONDS
            with black_hole(port):
                hung, seconds = submit(api, model_id)
                assert seconds < ANSWER_SECONDS
                time.sleep(2)
            with redis_server(tmp_path, port):
                eventually(lambda: done(stopped) and done(hung))
    world.check()
