"""Starts the program that tells MLflow of jobs, and starts it again when it ends.

It is a process of its own: the client takes memory and time to import, threads of it would live in a process that
forks, and no server that hangs can hold up a worker.
"""

import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from importlib.util import find_spec

from app.settings import Settings, environment_with
from sandbox.parent_death import die_with

PROGRAM = "worker.mlflow_sender"
AGAIN_SECONDS = 5.0
STOP_SECONDS = 2.0
"""For a last look; what MLflow has not heard by then, it hears from the next worker."""

CLIENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",  # rows are tried again, and one that failed is looked for first
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "8",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "DO_NOT_TRACK": "true",
}
"""Settings of MLflow's client, unless the environment has others."""

log = logging.getLogger(__name__)


def require_client(settings: Settings) -> None:
    """Raise SystemExit where MLflow is to be told, and its client is not installed."""
    if settings.mlflow_tracking_uri is not None and find_spec("mlflow") is None:
        raise SystemExit(
            "This worker does not start: ZEROPOINT_MLFLOW_TRACKING_URI is set, and MLflow's client is not installed."
            " pip install '.[mlflow]' in the checkout, or leave the setting out."
        )


@contextmanager
def telling(settings: Settings) -> Iterator[None]:
    """Have the program run until the block ends, where a setting names an MLflow server."""
    if settings.mlflow_tracking_uri is None:
        yield
        return
    stop = threading.Event()
    # The kernel ends the program with the thread that started it, so one thread starts it and waits.
    thread = threading.Thread(target=_run_until, args=(stop,), name="mlflow", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(2 * STOP_SECONDS)


def _run_until(stop: threading.Event) -> None:
    while not stop.is_set():
        with _program() as program:
            while program.poll() is None and not stop.wait(0.2):
                pass
            if program.poll() is not None:
                log.error("the program that tells MLflow of jobs ended with %s, starting it again", program.returncode)
        stop.wait(AGAIN_SECONDS)


@contextmanager
def _program() -> Iterator["subprocess.Popen[bytes]"]:
    """Start the program; on leaving the block it is gone."""
    program = subprocess.Popen(
        [sys.executable, *(["-P"] if sys.flags.safe_path else []), "-m", PROGRAM],
        env=environment_with(CLIENT),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=partial(die_with, os.getpid()),
    )
    try:
        yield program
    finally:
        program.terminate()
        with suppress(subprocess.TimeoutExpired):
            program.wait(STOP_SECONDS)
        program.kill()
        program.wait()
