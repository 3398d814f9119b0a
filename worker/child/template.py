"""The template of the worker's jobs, `sandbox.template`, and the processes that are forked from it."""

import ctypes
import json
import os
import platform
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import IO

from sandbox.parent_death import die_with
from sandbox.policy import Sandbox, template_command
from worker.child.process import STDERR_FILE, Child, environment, running

PR_SET_CHILD_SUBREAPER = 36
MOST_FORKS = 500
"""By one template, for good measure: nothing is known to grow in it."""


ALONE = {"OPENBLAS_NUM_THREADS": "1"} if platform.machine() == "x86_64" else {}
"""Keeps numpy from starting threads at import. torch computes with that library too, but not on this processor."""


class NoTemplate(Exception):
    """There is no template, or it ended: the program has to be started by itself."""


class Orphan:
    """A process whose first parent ended, and that this one adopted; it is used like a Popen."""

    returncode: int | None = None

    def __init__(self, pid: int, stdin: IO[bytes], stdout: IO[bytes], stderr: IO[bytes]) -> None:
        self.pid, self.stdin, self.stdout, self.stderr = pid, stdin, stdout, stderr

    def wait(self) -> int:
        """Wait for its end and return its exit code, -N after signal N."""
        if self.returncode is None:
            _, status = os.waitpid(self.pid, 0)
            self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode


class Template:
    """A running template. Used by one thread only: the kernel ends it with the thread that started it."""

    def __init__(self, program: str) -> None:
        """Start it; it imports meanwhile, and answers when it is done."""
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)
        self._requests, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._forks = 0
        with theirs:
            self._process = subprocess.Popen(
                template_command(program),
                cwd="/",
                env=environment(Path("/")) | ALONE,
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                preexec_fn=partial(die_with, os.getpid()),
            )

    @property
    def serves(self) -> bool:
        """Whether it can be asked for another process."""
        return self._forks < MOST_FORKS and self._process.poll() is None

    @contextmanager
    def fork(self, folder: Path, sandbox: Sandbox) -> Iterator[Child]:
        """Have a process forked that works in `folder`; on leaving the block it and all of its group are gone.

        Raises NoTemplate.
        """
        with (folder / STDERR_FILE).open("wb") as log, ExitStack() as files:
            process = self._ask(folder, sandbox, files)
            with running(process, log) as child:
                yield child

    def _ask(self, folder: Path, sandbox: Sandbox, files: ExitStack) -> Orphan:
        """Send the request. The files of the process are closed with `files`."""
        (stdin, to_stdin), (from_stdout, stdout), (from_stderr, stderr) = os.pipe(), os.pipe(), os.pipe()
        ours = (os.fdopen(to_stdin, "wb", 0), os.fdopen(from_stdout, "rb", 0), os.fdopen(from_stderr, "rb", 0))
        for file in ours:
            files.enter_context(file)
        theirs = (os.open(folder, os.O_RDONLY | os.O_DIRECTORY), stdin, stdout, stderr)
        self._forks += 1
        try:
            socket.send_fds(self._requests, [json.dumps(asdict(sandbox)).encode()], theirs)
            answer = self._requests.recv(32)
        except OSError as error:
            raise NoTemplate from error
        finally:
            for descriptor in theirs:
                os.close(descriptor)
        if not answer:
            raise NoTemplate
        return Orphan(int(answer), *ours)

    def close(self) -> None:
        """End it; what was forked from it goes on."""
        self._requests.close()
        with suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGKILL)
        self._process.wait()
