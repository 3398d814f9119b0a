"""The Celery worker: `zeropoint worker`, which is `python -m worker`.

The main process announces itself, looks for lost jobs, and forks one pool process for each slot. Those do the jobs.
"""

import logging
import signal
import sys
import threading
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

from billiard import active_children
from celery import Task
from celery.signals import (
    setup_logging,
    worker_init,
    worker_process_init,
    worker_process_shutdown,
    worker_ready,
    worker_shutdown,
    worker_shutting_down,
)

from app.database import connected
from app.jobs import workers
from app.jobs.queue import TASK_NAME, create_celery
from app.jobs.reconciler import reconciling
from app.settings import get_settings
from worker import tasks
from worker.child import scratch
from worker.child.forking import no_fork
from worker.child.prestarted import PrestartedChildren
from worker.self_test import held_or_refuse, sandbox_of

ANNOUNCE_SECONDS = 10
ANNOUNCED_FILE = "announced"
"""Its age shows a container's health check whether this worker still reaches the database."""

log = logging.getLogger(__name__)
app = create_celery(get_settings())
prestarted = PrestartedChildren(get_settings().scratch_dir, sandbox_of(get_settings()))
threads = ExitStack()


@app.task(name=TASK_NAME, bind=True)
def look(self: Task[..., None]) -> None:
    tasks.look(str(self.request.hostname), get_settings(), prestarted)
    prestarted.prepare()


@setup_logging.connect
def configure_logging(**_: Any) -> None:
    """Log one line a record to standard error, with the job's id."""
    handler = logging.StreamHandler()
    handler.addFilter(tasks.JobIdFilter())
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(process)d %(name)s %(job_id)s %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])


@worker_init.connect
def test_sandbox(sender: Any, **_: Any) -> None:
    """Test the sandbox before any job is claimed: a worker without a required layer does not start."""
    sender.sandbox = held_or_refuse(sandbox_of(get_settings()))
    scratch.remove_stale(get_settings().scratch_dir)


@worker_process_init.connect
def begin_pool_process(**_: Any) -> None:
    """Unwind on SIGTERM: the child of a pool process is stopped, its folder removed, its job released."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    prestarted.prepare()


@worker_process_shutdown.connect
def end_pool_process(**_: Any) -> None:
    prestarted.close()


@worker_ready.connect
def begin(sender: Any, **_: Any) -> None:
    worker = (sender.hostname, sender.controller.sandbox)
    threading.Thread(target=announce_for_ever, args=worker, name="announce", daemon=True).start()
    threads.enter_context(reconciling(get_settings(), app, undisturbed=no_fork))


@worker_shutting_down.connect
def stop_in_time(**_: Any) -> None:
    """Release the running jobs after a while: Celery reads no more hints, and would wait for them for ever."""
    timer = threading.Timer(get_settings().worker_stop_seconds, _stop_pool)
    timer.daemon = True
    timer.start()


@worker_shutdown.connect
def end(**_: Any) -> None:
    threads.close()


def announce_for_ever(name: str, sandbox: Mapping[str, bool]) -> None:
    """Announce this worker again and again."""
    pause = threading.Event()
    while True:
        try:
            announce(name, sandbox)
        except Exception:
            log.exception("could not announce this worker, trying again in %s s", ANNOUNCE_SECONDS)
        pause.wait(ANNOUNCE_SECONDS)


def announce(name: str, sandbox: Mapping[str, bool]) -> None:
    settings = get_settings()
    with no_fork, connected(settings) as sessions, sessions() as session:
        workers.announce_worker(session, name, settings.worker_device, sandbox)
    settings.scratch_dir.mkdir(parents=True, exist_ok=True)
    (settings.scratch_dir / ANNOUNCED_FILE).touch()
    scratch.remove_stale(settings.scratch_dir)


def _stop_pool() -> None:
    for process in active_children():
        process.terminate()
