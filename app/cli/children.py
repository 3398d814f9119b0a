"""Server processes that one parent starts, watches and stops."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from sandbox.parent_death import die_with

LOG_TAIL_LINES = 8
STOP_SECONDS = 5.0
"""For a server to stop by itself; some take what they are asked for longer than that."""
LAST_SECONDS = 1.0


class ServerError(Exception):
    """A server ended by itself, or never became ready. The text is for the person at the terminal."""


class Server:
    """A running server and the file that holds what it says."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], log: Path, stop_seconds: float) -> None:
        self.name = name
        self.process = process
        self.log = log
        self._stop_seconds = stop_seconds
        self._asked = False

    def ask_to_stop(self) -> None:
        """Tell it to stop, once: many servers take a second word for haste."""
        if not self._asked:
            self._asked = True
            self.process.terminate()

    def stop(self) -> None:
        """Ask the leader and wait, then ask everyone in its session, then end them all."""
        self.ask_to_stop()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(self._stop_seconds)
        if self.process.poll() is None:
            self._signal_session(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(LAST_SECONDS)
        self._signal_session(signal.SIGKILL)
        self.process.wait()

    def _signal_session(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)

    def check(self) -> None:
        """Raise ServerError when it is not running any more."""
        code = self.process.poll()
        if code is not None:
            raise ServerError(f"The {self.name} stopped with exit code {code}. {self.last_words()}")

    def wait_until(self, ready: Callable[[], bool], seconds: float) -> None:
        """Return when `ready` says so. Raises ServerError when it does not in time, or the server ends before."""
        deadline = time.monotonic() + seconds
        while not ready():
            self.check()
            if time.monotonic() > deadline:
                raise ServerError(f"The {self.name} was not ready after {seconds:.0f} s. {self.last_words()}")
            time.sleep(0.1)

    def last_words(self) -> str:
        lines = self.log.read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:]
        return "\n  ".join([f"The end of {self.log}:", *lines])


@contextmanager
def started(
    name: str,
    command: list[str],
    environment: dict[str, str],
    logs: Path,
    *,
    standard_input: str = "",
    lock: int,
    listener: int | None = None,
    stop_seconds: float = STOP_SECONDS,
) -> Iterator[Server]:
    """Start a server in its own session (Ctrl-C reaches the parent alone); on leaving the block it is gone.

    It is gone too when this process ends in any other way. Until then it holds the locked file `lock`. `listener`: an
    open file that it listens on. `stop_seconds`: how long it may take to stop.
    """
    path = logs / f"{name}.log"
    with path.open("ab") as log:
        process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            start_new_session=True,
            pass_fds=[lock] if listener is None else [lock, listener],
            preexec_fn=partial(die_with, os.getpid()),
        )
    server = Server(name, process, path, stop_seconds)
    try:
        assert process.stdin is not None
        with suppress(BrokenPipeError), process.stdin:
            process.stdin.write(standard_input.encode())
        yield server
    finally:
        server.stop()
