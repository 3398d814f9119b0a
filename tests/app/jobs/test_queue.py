"""Hints on a real Redis."""

import time
from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery
from kombu import Connection

from app.jobs.queue import BROKER_AWAY, MOST_HINTS, TASK_NAME, broker_answers, create_celery, send_hints
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


def waiting(celery: Celery, device: str) -> int:
    """How many hints are in a queue."""
    with celery.connection_for_read() as connection:
        declared: Any = celery.amqp.queues[device](connection.default_channel).queue_declare()
        count: int = declared.message_count
        return count


def test_as_many_hints_wait_as_there_are_jobs(celery: Celery) -> None:
    assert [send_hints(celery, "cuda", wanted) for wanted in (2, 2, 3, 1, 0)] == [2, 0, 1, 0, 0]
    assert (waiting(celery, "cuda"), waiting(celery, "cpu")) == (3, 0)


def test_a_hint_names_no_job(celery: Celery) -> None:
    send_hints(celery, "cpu", 1)
    with celery.connection_for_read() as connection:
        assert isinstance(connection, Connection)
        with connection.SimpleQueue("cpu") as queue:
            message = queue.get(timeout=60)
            assert message.headers["task"] == TASK_NAME
            assert message.payload[:2] == [[], {}]
            message.ack()


def test_a_flood_of_jobs_is_no_flood_of_hints(celery: Celery) -> None:
    assert send_hints(celery, "cpu", MOST_HINTS + 5) == MOST_HINTS


def test_without_a_broker_sending_is_soon_given_up(away: Settings) -> None:
    started = time.monotonic()
    with pytest.raises(BROKER_AWAY):
        send_hints(create_celery(away), "cpu", 1)
    assert time.monotonic() - started < 20


def test_broker_answers(celery: Celery, away: Settings) -> None:
    assert broker_answers(celery)
    assert not broker_answers(create_celery(away))
