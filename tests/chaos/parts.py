"""The processes of a service, each of which can be killed at any moment and started again."""

import os
import signal
import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from tests.servers import ROOT
from tests.service.processes import descendants

STOP_SECONDS = 10.0


class Part:
    """One server, and whatever it starts. It leads a session of its own."""

    def __init__(
        self, name: str, command: list[str], environment: Mapping[str, str], log: Path, user: str | None = None
    ) -> None:
        self.name = name
        self.fallen = 0
        """How often it ended though nobody killed it."""
        self._command = command
        self._environment = dict(environment)
        self._log = log
        self._user = user
        self._lock = threading.RLock()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """Its process, while that runs."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    def start(self) -> None:
        """Have it run."""
        with self._lock:
            if self.pid is None:
                self._process = self._started()

    def mend(self) -> None:
        """Start it again if it ended by itself, as whatever runs a service would."""
        with self._lock:
            if self._process is not None and self.pid is None:
                self.fallen += 1
                self._process = self._started()

    def kill(self, *, whole: bool = True) -> bool:
        """End the process at once, with all that it started or alone; False when it is down already."""
        with self._lock:
            if self._process is None or self.pid is None:
                return False
            for pid in descendants(self._process.pid) if whole else [self._process.pid]:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self._process.wait()
            self._process = None
            return True

    def end(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Stop it in good order, if it can."""
        with self._lock:
            if self._process is not None and self.pid is not None:
                self._process.send_signal(number)
                with suppress(subprocess.TimeoutExpired):
                    self._process.wait(STOP_SECONDS)
                    self._process = None
            self.kill()

    def restart(self) -> None:
        """As for a new version."""
        with self._lock:
            self.end()
            self.start()

    def _started(self) -> subprocess.Popen[bytes]:
        with self._log.open("ab") as log:
            return subprocess.Popen(
                self._command,
                cwd=ROOT,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                user=self._user,
                start_new_session=True,
            )


class Frozen:
    """A part that was stopped in the middle of everything, with all that it started, until it is thawed."""

    def __init__(self, part: Part) -> None:
        # A pidfd stays the process's own, whatever becomes of its number.
        self._held: list[int] = []
        for pid in descendants(part.pid) if part.pid else []:
            with suppress(ProcessLookupError):
                self._held.append(os.pidfd_open(pid))
                signal.pidfd_send_signal(self._held[-1], signal.SIGSTOP)

    def thaw(self) -> None:
        for held in self._held:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(held, signal.SIGCONT)
            os.close(held)


def marked(mark: str) -> Iterator[int]:
    """The processes that have this in their environment."""
    for environment in Path("/proc").glob("[0-9]*/environ"):
        with suppress(FileNotFoundError, ProcessLookupError, PermissionError):
            if mark.encode() in environment.read_bytes():
                yield int(environment.parent.name)


def end_marked(mark: str) -> None:
    """End those that outlived whoever started them."""
    for pid in marked(mark):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
