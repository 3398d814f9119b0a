"""The child program as a process: started in its own session, read line by line, stopped reliably. Linux only.

It gets its own session, so that one signal reaches whatever it starts; an environment with nothing of ours in it; and
a death signal from the kernel, so that it never outlives the thread that started it, however that one ends.
"""

import os
import selectors
import signal
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import IO, BinaryIO, Protocol

from sandbox.parent_death import die_with
from sandbox.policy import import_path
from zeropoint.schema.job import GO

LINE_CAP = 4096
CHUNK = 1 << 16
STDERR_CAP = 1 << 20
LAST_WORDS = 4096
STDERR_FILE = "stderr.log"
GRACE_SECONDS = 1.0


class LineReader:
    """Cuts a stream into lines and drops those longer than LINE_CAP, so that its memory stays small."""

    def __init__(self) -> None:
        self._rest = b""
        self._overlong = False
        self._lines: list[bytes] = []

    def feed(self, chunk: bytes) -> None:
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        if self._overlong and lines:
            lines.pop(0)
            self._overlong = False
        if self._overlong or len(self._rest) > LINE_CAP:
            self._rest, self._overlong = b"", True
        self._lines += [line for line in lines if len(line) <= LINE_CAP]

    def pop_lines(self) -> list[bytes]:
        lines, self._lines = self._lines, []
        return lines


class CappedLog:
    """Keeps the first STDERR_CAP bytes in a file and the last ones in memory; the child never blocks on it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._room = STDERR_CAP
        self.last_words = b""

    def feed(self, chunk: bytes) -> None:
        self._file.write(chunk[: self._room])
        self._room = max(0, self._room - len(chunk))
        self.last_words = (self.last_words + chunk)[-LAST_WORDS:]


class Process(Protocol):
    """What a Popen is to a child."""

    @property
    def pid(self) -> int: ...
    @property
    def stdin(self) -> IO[bytes] | None: ...
    @property
    def stdout(self) -> IO[bytes] | None: ...
    @property
    def stderr(self) -> IO[bytes] | None: ...
    @property
    def returncode(self) -> int | None: ...
    def wait(self) -> int:
        """Wait for the end and return the exit code."""


class Child:
    """A running child program: `read` until `ended`, then `stop` for the exit code."""

    def __init__(self, process: Process, log: CappedLog) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        self.pid = process.pid
        self.ended = False
        self._process = process
        self._stdin = process.stdin
        self._lines = LineReader()
        self._log = log
        self._selector = selectors.DefaultSelector()
        # A pidfd becomes readable at the end of the process, before it is reaped: its number stays its own until then.
        self._pidfd = os.pidfd_open(process.pid)
        self._selector.register(self._pidfd, selectors.EVENT_READ)
        self._watch(process.stdout, self._lines.feed)
        self._watch(process.stderr, log.feed)

    def _watch(self, pipe: IO[bytes], feed: Callable[[bytes], None]) -> None:
        os.set_blocking(pipe.fileno(), False)
        self._selector.register(pipe, selectors.EVENT_READ, feed)

    def go(self) -> None:
        """Let a job's program start on the job in its folder. Raises ValueError the second time."""
        with suppress(BrokenPipeError), self._stdin:  # it ended already: its exit code says why
            self._stdin.write(GO)

    def read(self, wait_seconds: float) -> list[bytes]:
        """Wait at most so long for output or the end; return the whole lines of standard output that are there."""
        for key, _ in self._selector.select(wait_seconds):
            if key.fd == self._pidfd:
                self.ended = True
            elif chunk := os.read(key.fd, CHUNK):
                key.data(chunk)
            else:
                self._selector.unregister(key.fileobj)
        return self._lines.pop_lines()

    @property
    def last_words(self) -> str:
        """Return the end of standard error, for operators alone."""
        return self._log.last_words.decode(errors="replace")

    def stop(self) -> int:
        """Send SIGTERM to the group, SIGKILL to the rest after GRACE_SECONDS; return the leader's exit code.

        Afterwards `read(0)` still returns what the pipes hold.
        """
        if self._process.returncode is None:
            if not self.ended:
                os.killpg(self.pid, signal.SIGTERM)
                self._await_end(GRACE_SECONDS)
            os.killpg(self.pid, signal.SIGKILL)
        exit_code = self._process.wait()
        self._reap_group()
        return exit_code

    def _reap_group(self) -> None:
        """Reap what the leader left, where this process adopts orphans."""
        with suppress(ChildProcessError):
            while True:
                os.waitpid(-self.pid, 0)

    def _await_end(self, seconds: float) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._pidfd, selectors.EVENT_READ)
            selector.select(seconds)

    def close(self) -> None:
        self._selector.close()
        os.close(self._pidfd)


@contextmanager
def started(command: Sequence[str], folder: Path) -> Iterator[Child]:
    """Start `command` in `folder`; on leaving the block it and all of its group are gone."""
    with (
        (folder / STDERR_FILE).open("wb") as log,
        subprocess.Popen(
            command,
            cwd=folder,
            env=environment(folder),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,
            preexec_fn=partial(die_with, os.getpid()),
        ) as process,
        running(process, log) as child,
    ):
        yield child


@contextmanager
def running(process: Process, log: BinaryIO) -> Iterator[Child]:
    """Read a process, its standard error into `log`; on leaving the block it and all of its group are gone."""
    child = Child(process, CappedLog(log))
    try:
        yield child
    finally:
        child.stop()
        child.close()


def environment(folder: Path) -> dict[str, str]:
    """Return an environment without our credentials and settings, and with every cache inside the job's folder."""
    return {
        "PATH": os.defpath,
        "LANG": "C.UTF-8",
        "HOME": str(folder),
        "TMPDIR": str(folder),
        "PYTHONPATH": import_path(),
        # Both processes of a job, and all jobs, share the cores: threads that wait must not spin on them.
        "OMP_WAIT_POLICY": "PASSIVE",
        # There is no network; these keep the library from waiting for one.
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
    }
