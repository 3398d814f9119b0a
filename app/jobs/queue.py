"""The Celery object and its one message: a hint to look for a job.

It carries no job id; the database decides which job runs next.
"""

from typing import Any

from celery import Celery
from kombu import Queue
from kombu.exceptions import OperationalError

from app.settings import Settings

TASK_NAME = "zeropoint.look"
DEVICES = ("cpu", "cuda")
MOST_HINTS = 1000
"""Sent at once; more come when these have been looked at."""

BROKER_AWAY = (OperationalError, OSError)


def create_celery(settings: Settings) -> Celery:
    """Return a Celery that carries hints: no results, JSON only, fast to fail when the broker is away."""
    celery = Celery("zeropoint", broker=settings.broker_url, set_as_current=False)
    celery.conf.update(
        task_acks_late=False,  # the row survives a crash, not the message
        task_reject_on_worker_lost=False,
        task_ignore_result=True,
        task_serializer="json",
        accept_content=["json"],
        task_publish_retry=False,  # a submit must answer fast
        task_queues=[Queue(device) for device in DEVICES],
        task_default_queue=DEVICES[0],
        task_create_missing_queues=False,
        task_time_limit=settings.job_seconds + 300,  # a backstop; the supervisor ends jobs itself
        worker_prefetch_multiplier=1,
        worker_disable_prefetch=True,
        worker_max_tasks_per_child=200,
        worker_max_memory_per_child=400_000,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        worker_enable_remote_control=False,  # that channel is unauthenticated; the workers table says who lives
        worker_send_task_events=False,
        worker_hijack_root_logger=False,
        broker_connection_retry=True,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_connection_timeout=2,
        broker_transport_options={
            "visibility_timeout": 3600,
            "socket_timeout": 5,
            "socket_connect_timeout": 2,
            "socket_keepalive": True,
            "health_check_interval": 25,
            "retry_on_timeout": True,
            "unacked_restore_interval": 10,
            "unacked_restore_throttle": 1,
            "global_keyprefix": settings.broker_prefix,
        },
    )
    return celery


def send_hints(celery: Celery, device: str, due: int) -> int:
    """Send hints until as many wait for a device's workers as jobs are due; return how many were sent.

    Counting first keeps the queue short while workers are busy, and refills a queue that lost its messages. Raises
    BROKER_AWAY when the broker does not answer.
    """
    with celery.connection_for_write() as connection:
        connection.ensure_connection(max_retries=1, timeout=3)
        channel = connection.default_channel
        declared: Any = celery.amqp.queues[device](channel).queue_declare()
        missing: int = max(0, min(due, MOST_HINTS) - declared.message_count)
        with celery.amqp.Producer(channel) as producer:
            for _ in range(missing):
                celery.send_task(TASK_NAME, queue=device, producer=producer, retry=False)
    return missing


def broker_answers(celery: Celery) -> bool:
    """Return whether the broker accepts a connection."""
    try:
        with celery.connection_for_write() as connection:
            connection.ensure_connection(max_retries=1, timeout=3)
    except BROKER_AWAY:
        return False
    return True
