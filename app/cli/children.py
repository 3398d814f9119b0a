"""Server processes that one parent starts, watches and stops."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

LOG_TAIL_LINES = 8
STOP_SECONDS = 5.0


class ServerError(Exception):
    """A server ended by itself, or never became ready. The text is for the person at the terminal."""


@dataclass(frozen=True)
class Server:
    """A running server and the file that holds what it says."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

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
    name: str, command: list[str], environment: dict[str, str], logs: Path, standard_input: str = ""
) -> Iterator[Server]:
    """Start a server in its own session (Ctrl-C reaches the parent alone); on leaving the block it is gone."""
    path = logs / f"{name}.log"
    with path.open("ab") as log:
        process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True
        )
    try:
        assert process.stdin is not None
        with suppress(BrokenPipeError), process.stdin:
            process.stdin.write(standard_input.encode())
        yield Server(name, process, path)
    finally:
        _stop(process)


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Ask the leader, then everyone in its session, then end them all."""
    for ask in (process.terminate, lambda: _signal_session(process, signal.SIGTERM)):
        ask()
        with suppress(subprocess.TimeoutExpired):
            process.wait(STOP_SECONDS)
            break
    _signal_session(process, signal.SIGKILL)
    process.wait()


def _signal_session(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, number)
