"""The Celery worker: `zeropoint worker`, which is `python -m worker`.

The main process announces itself, looks for lost jobs, and forks one pool process for each slot. Those do the jobs.
"""

import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import wraps
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

from app import logs, traces
from app.database import connected
from app.jobs import workers
from app.jobs.queue import TASK_NAME, create_celery
from app.jobs.reconciler import reconciling
from app.memory import plan_memory
from app.metrics import answer_on_a_port
from app.settings import get_settings
from app.storage import check_at_start, open_storage
from sandbox.parent_death import die_with
from worker import tasks
from worker.child import scratch
from worker.child.forking import no_fork
from worker.child.prestarted import PrestartedChildren
from worker.metrics import ANNOUNCED, WorkerMetrics
from worker.mlflow_sender.process import require_client, telling
from worker.self_test import held_or_refuse, sandbox_of

ANNOUNCE_SECONDS = 10
ANNOUNCED_FILE = "announced"
"""Its age shows a container's health check whether this worker still reaches the database."""

ORPHAN_SECONDS = 10
"""How long a pool process that lost the main one may take to release its job, also where others compute."""

log = logging.getLogger(__name__)
app = create_celery(get_settings())
prestarted = PrestartedChildren(get_settings().scratch_dir, sandbox_of(get_settings()))
threads = ExitStack()
MAIN = os.getpid()
unwinds: list[bool] = []
"""Not empty once this pool process ends; it is never asked to go on."""


@app.task(name=TASK_NAME, bind=True)
def look(self: Task[..., None]) -> None:
    # Here, since the pool puts a handler of its own over what was there before: its second signal would end a release.
    signal.signal(signal.SIGTERM, unwind)
    tasks.look(str(self.request.hostname), get_settings(), prestarted)
    prestarted.prepare()


@setup_logging.connect
def configure_logging(**_: Any) -> None:
    """Log to standard error; lines about a job have its id."""
    logs.configure(get_settings().log_level, get_settings().log_format)


def required(handle: Callable[..., None]) -> Callable[..., None]:
    """End this process when the handler of a signal fails: Celery would log it, and go on without what it does."""

    @wraps(handle)
    def handle_or_end(**sent: Any) -> None:
        try:
            handle(**sent)
        except Exception as error:
            log.exception("this worker can't work")
            raise SystemExit(f"This worker does not start: {type(error).__name__}: {error}") from error

    return handle_or_end


@worker_init.connect
@required
def test_what_is_needed(sender: Any, **_: Any) -> None:
    """Test sandbox, scratch folder and storage before any job is claimed or this worker announced."""
    settings = get_settings()
    require_client(settings)
    log.info("this worker %s", plan_memory(settings).check(worker=True))
    check_at_start(open_storage(settings))
    scratch.make_folder(settings.scratch_dir).remove()
    sender.sandbox = held_or_refuse(sandbox_of(settings))
    scratch.remove_stale(settings.scratch_dir)
    answer_on_a_port(settings, WorkerMetrics(settings))


@worker_process_init.connect
@required
def begin_pool_process(**_: Any) -> None:
    """Have the kernel send SIGTERM when the main process ends, however that ends, and make a job's process ready."""
    die_with(MAIN, signal.SIGTERM)
    traces.configure(get_settings(), "zeropoint-worker", in_background=False)
    prestarted.prepare()


def unwind(*_: object) -> None:
    """Unwind this pool process: its child is stopped, the folder removed, the job released.

    The kernel sends the signal once for each thread of the main process that had this one as its child. Nobody then
    ends what takes too long. Another signal must not break off what is recorded.
    """
    if os.getppid() != MAIN:
        signal.alarm(ORPHAN_SECONDS)
    if not unwinds:
        unwinds.append(True)
        sys.exit(1)


@worker_process_shutdown.connect
def end_pool_process(**_: Any) -> None:
    prestarted.close()


@worker_ready.connect
@required
def begin(sender: Any, **_: Any) -> None:
    worker = (sender.hostname, sender.controller.sandbox)
    threading.Thread(target=announce_for_ever, args=worker, name="announce", daemon=True).start()
    threads.enter_context(reconciling(get_settings(), app, undisturbed=no_fork))
    threads.enter_context(telling(get_settings()))


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
    ANNOUNCED.set_to_current_time()
    settings.scratch_dir.mkdir(parents=True, exist_ok=True)
    (settings.scratch_dir / ANNOUNCED_FILE).touch()
    scratch.remove_stale(settings.scratch_dir)


def _stop_pool() -> None:
    for process in active_children():
        process.terminate()
