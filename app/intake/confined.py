"""Run a short-lived process in the jobs' sandbox: it reads one file and answers with a line, and perhaps bytes."""

import json
import os
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Lock, Timer
from typing import Any

from app.errors import Invalid
from app.intake.child import too_demanding
from app.intake.limits import Limits
from sandbox.policy import Sandbox, command, import_path

CHUNK_BYTES = 2**20
MAX_HEAD_BYTES = 64 * 2**20
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"}
"""Libraries reserve addresses for each thread that they might start, and a process here computes next to nothing."""
NICE = 10
"""How far the process steps back for those that answer requests on the same cores (nice; 19 is the most)."""


class Stopped(Exception):
    """The process was stopped, because nobody waits for its answer any more."""


class Stop:
    """Stops a process from another thread, also one that begins later."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._kill: Callable[[], None] | None = None
        self.stopped = False

    def watch(self, kill: Callable[[], None]) -> None:
        """Have `kill` called when the process is to stop: at once, if it already was."""
        with self._lock:
            self._kill = kill
            if self.stopped:
                kill()

    def stop(self) -> None:
        """Stop the process; do nothing where it has ended."""
        with self._lock:
            self.stopped = True
            if self._kill is not None:
                self._kill()


def ask(
    program: str,
    upload: Path,
    arguments: Sequence[str],
    sandbox: Sandbox,
    limits: Limits,
    *,
    stop: Stop | None = None,
    write: Callable[[bytes], None] = lambda _: None,
) -> dict[str, Any]:
    """Run a program of `sandbox.programs` in a temporary folder next to the upload, where the disk has room for a copy.

    Passes the bytes after the program's first line to `write`, and returns the facts in that line. Raises Invalid when
    the line holds a refusal instead, or a limit is exceeded; OSError (NO_ROOM) when the disk has no room for what it
    unpacks; Stopped; RuntimeError when the program fails.
    """
    stop = stop or Stop()
    with (
        TemporaryDirectory(dir=upload.parent) as folder,
        subprocess.Popen(
            command(program, sandbox, *arguments),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            cwd=folder,
            # none of the service's variables: they may hold credentials
            env={**ONE_THREAD, "LANG": "C.UTF-8", "PYTHONPATH": import_path(), "HOME": folder, "HF_HUB_OFFLINE": "1"},
            start_new_session=True,
        ) as process,
    ):
        alarm = Timer(limits.seconds, process.kill)
        try:
            alarm.start()  # may find no thread
            stop.watch(process.kill)
            os.setpriority(os.PRIO_PROCESS, process.pid, os.getpriority(os.PRIO_PROCESS, 0) + NICE)
            head = _receive(process, write)
        except BaseException:
            process.kill()
            raise
        finally:
            alarm.cancel()
    if stop.stopped:
        raise Stopped(program)
    if process.returncode < 0:
        raise _refusal(too_demanding(limits))
    if process.returncode > 0 or head is None:
        raise RuntimeError(f"{program} ended with {process.returncode}; see its standard error")
    if "errno" in head:
        raise OSError(head["errno"], os.strerror(head["errno"]))
    if "refusal" in head:
        raise _refusal(head["refusal"])
    facts: dict[str, Any] = head["facts"]
    return facts


def _refusal(words: Mapping[str, str]) -> Invalid:
    return Invalid(words["code"], words["detail"], words["remedy"])


def _receive(process: "subprocess.Popen[bytes]", write: Callable[[bytes], None]) -> dict[str, Any] | None:
    """Read the line, pass on the remaining bytes, and wait for the process to end."""
    assert process.stdout is not None
    line = process.stdout.readline(MAX_HEAD_BYTES)
    while chunk := process.stdout.read(CHUNK_BYTES):
        write(chunk)
    process.wait()
    return json.loads(line) if line.endswith(b"\n") else None
