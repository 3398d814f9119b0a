"""Hints on a real Redis."""

import logging
import time
from collections.abc import Iterator

import pytest
from celery import Celery
from kombu import Connection

from app.jobs.queue import TASK_NAME, broker_answers, create_celery, send_hint
from app.settings import Settings
from tests.servers import free_port


@pytest.fixture
def away() -> Settings:
    return Settings(broker_url=f"redis://127.0.0.1:{free_port()}/0")


@pytest.fixture
def celery(redis_url: str, request: pytest.FixtureRequest) -> Iterator[Celery]:
    celery = create_celery(Settings(broker_url=redis_url, broker_prefix=f"{request.node.name}:"))
    yield celery
    celery.close()


def received(celery: Celery, device: str, count: int) -> list[str]:
    """Return the job ids of the next messages in a queue."""
    ids = []
    with celery.connection_for_read() as connection:
        assert isinstance(connection, Connection)
        with connection.SimpleQueue(device) as queue:
            for _ in range(count):
                message = queue.get(timeout=5)
                assert message.headers["task"] == TASK_NAME
                ids.append(message.payload[0][0])
                message.ack()
    return ids


def test_a_hint_is_the_job_s_id_on_the_queue_of_its_device(celery: Celery) -> None:
    send_hint(celery, "job_1", "cuda")
    send_hint(celery, "job_2", "cpu")
    assert received(celery, "cuda", 1) == ["job_1"]
    assert received(celery, "cpu", 1) == ["job_2"]


def test_a_higher_priority_is_served_first(celery: Celery) -> None:
    for priority in (0, 9, 5):
        send_hint(celery, f"job_{priority}", "cpu", priority)
    assert received(celery, "cpu", 3) == ["job_9", "job_5", "job_0"]


def test_without_a_broker_a_hint_is_logged_and_soon_given_up(away: Settings, caplog: pytest.LogCaptureFixture) -> None:
    started = time.monotonic()
    with caplog.at_level(logging.WARNING):
        send_hint(create_celery(away), "job_1", "cpu")
    assert time.monotonic() - started < 5
    assert "no hint was sent for job_1" in caplog.text


def test_broker_answers(celery: Celery, away: Settings) -> None:
    assert broker_answers(celery)
    assert not broker_answers(create_celery(away))
