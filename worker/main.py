"""The Celery worker: `celery -A worker.main worker -Q cpu`, or `zeropoint worker`."""

import logging
import signal
import sys
import threading
from collections.abc import Mapping
from typing import Any

from celery import Task
from celery.signals import setup_logging, worker_init, worker_process_init, worker_ready

from app.jobs import service
from app.jobs.queue import TASK_NAME, create_celery, send_hint
from app.settings import get_settings
from worker import tasks
from worker.self_test import held_or_refuse, sandbox_of

ANNOUNCE_SECONDS = 10
ANNOUNCED_FILE = "announced"
"""Its age tells a container's health check whether this worker still reaches the database."""

log = logging.getLogger(__name__)
app = create_celery(get_settings())


@app.task(name=TASK_NAME, bind=True)
def run_job(self: Task[..., None], job_id: str) -> None:
    tasks.run_job(job_id, worker=str(self.request.hostname))


@setup_logging.connect
def configure_logging(**_: Any) -> None:
    """One line a record on standard error, with the job's id."""
    handler = logging.StreamHandler()
    handler.addFilter(tasks.JobIdFilter())
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(process)d %(name)s %(job_id)s %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])


@worker_init.connect
def test_sandbox(sender: Any, **_: Any) -> None:
    """Before any job is taken. A machine without a required layer gets none."""
    sender.sandbox = held_or_refuse(sandbox_of(get_settings()))


@worker_process_init.connect
def leave_in_order(**_: Any) -> None:
    """On SIGTERM a pool process unwinds: its child is stopped, the scratch folder removed, the job's end recorded."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))


@worker_ready.connect
def begin_announcing(sender: Any, **_: Any) -> None:
    worker = (sender.hostname, sender.controller.sandbox)
    threading.Thread(target=announce_for_ever, args=worker, name="announce", daemon=True).start()


def announce_for_ever(name: str, sandbox: Mapping[str, bool]) -> None:
    """Tell the database that this worker lives. The first time, hints that the broker may have lost are sent again."""
    pause = threading.Event()
    announced = False
    while True:
        try:
            announce(name, sandbox, resend=not announced)
            announced = True
        except Exception:
            log.exception("could not announce this worker, trying again in %s s", ANNOUNCE_SECONDS)
        pause.wait(ANNOUNCE_SECONDS)


def announce(name: str, sandbox: Mapping[str, bool], *, resend: bool) -> None:
    settings = get_settings()
    with tasks.database(settings) as sessions, sessions() as session:
        service.announce_worker(session, name, settings.worker_device, sandbox)
        for job_id, device in service.queued_job_ids(session) if resend else []:
            send_hint(app, job_id, device)
    settings.scratch_dir.mkdir(parents=True, exist_ok=True)
    (settings.scratch_dir / ANNOUNCED_FILE).touch()
