"""What a process does that others can see, counted from outside of the code that does it, and a stop at the n-th.

Rows: what SQLAlchemy sends that writes, and each commit. Files: Python's audit events, which come before the act; and
calls of `write` and `fsync`, of which there are none, as the interpreter's profiler shows them. Requests to a bucket
that write: an audit event again, once for the head of a request and once for its body. A read is no effect: to die
before one is to die after the effect before it.
"""

import os
import re
import signal
import stat
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from sqlalchemy import Connection, Engine, event

KILLED = 137
TOLD = 143
WRITES = re.compile(r"\s*(INSERT INTO|UPDATE|DELETE FROM) (\w+)")
REQUEST = re.compile(rb"(GET|HEAD|PUT|POST|DELETE) /[^/ ]+/team/(\S+) HTTP")
COUNTS = "INSERT tallies"
"""Several in a row are one: databases differ in how many statements that is."""
WRITABLE = os.O_WRONLY | os.O_RDWR
ACTS = {
    "os.chmod": "chmod",
    "os.mkdir": "mkdir",
    "os.rename": "rename",
    "os.remove": "remove",
    "os.rmdir": "remove",
    "subprocess.Popen": "start",
    "fcntl.flock": "lock",
}
PARTS = (
    (re.compile(r"remove scratch/.*"), "remove in scratch"),
    (re.compile(r"scratch/storage/[0-9a-f]{32}"), "scratch/storage/*"),
    (re.compile(r"scratch/storage/tmp\w+"), "scratch/storage/folder"),
    (re.compile(r"[0-9a-f]{64}/[0-9a-f]{32}"), "*/*"),
    (re.compile(r"spare-\w+"), "spare"),
    (re.compile(r"job_[0-9a-f]+"), "job"),
    (re.compile(r"tmp/[0-9a-f]{32}"), "tmp/*"),
    (re.compile(r"tmp/tmp\w+"), "tmp/folder"),
    (re.compile(r"[0-9a-f]{64}"), "*"),
    (re.compile(r"blobs/[0-9a-f]{2}/[0-9a-f]{2}"), "blobs/../.."),
    (re.compile(r"blobs/[0-9a-f]{2}"), "blobs/.."),
)


class Effects:
    """Counts while `on`, in one thread or (None) in all; more than two equal effects in a row are two."""

    def __init__(self, folders: Sequence[Path], thread: str | None, stop_before: int | None, how: str) -> None:
        self.labels: list[str] = []
        self.on = False
        self._folders = [str(folder) for folder in folders]
        self._thread = thread
        self._stop_before = stop_before
        self._writes = False
        self._how = how

    def see(self, label: str) -> None:
        """An effect is about to be."""
        if not self.on or self._thread not in (None, threading.current_thread().name):
            return
        if self.labels[-2:] == [label, label] or self.labels[-1:] == [label] == [COUNTS]:
            return
        if len(self.labels) == self._stop_before:
            self._stop()
        self.labels.append(label)

    def _stop(self) -> None:
        if self._how == "kill":
            os._exit(KILLED)
        self.on = False
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(TOLD))  # as in a worker's pool process
        os.kill(os.getpid(), signal.SIGTERM)

    def watch(self) -> None:
        """From now on see all that this process does; there is no way back."""
        event.listen(Engine, "before_cursor_execute", self._on_statement)
        event.listen(Engine, "commit", self._on_commit)
        sys.addaudithook(self._on_audit)
        threading.setprofile(self._on_call)
        sys.setprofile(self._on_call)

    def _on_statement(self, _connection: Connection, _cursor: object, statement: str, *_: object) -> None:
        if found := WRITES.match(statement):
            self.see(f"{found[1].split()[0]} {found[2]}")

    def _on_commit(self, _connection: Connection) -> None:
        self.see("COMMIT")

    def _on_audit(self, name: str, arguments: tuple[Any, ...]) -> None:
        if not self.on:
            return
        if name == "http.client.send":
            self._see_request(arguments[1])
        elif name == "open" and arguments[2] & WRITABLE:
            self._see_file("open", arguments[0])
        elif name == "subprocess.Popen":
            self._see_file("start in", arguments[2])
        elif name in ("os.remove", "os.rmdir", "os.mkdir"):
            self._see_file(ACTS[name], arguments[0], arguments[-1])
        elif name in ACTS:
            self._see_file(ACTS[name], arguments[0])

    def _on_call(self, _frame: FrameType, kind: str, called: Any) -> None:
        if not self.on or kind != "c_call":
            return
        if called.__name__ == "fsync":
            self.see("fsync")
        elif called.__name__ == "write":
            self._see_file("write", getattr(called.__self__, "name", None))

    def _see_request(self, data: object) -> None:
        if isinstance(data, bytes) and (head := REQUEST.match(data)):
            self._writes = head[1] not in (b"GET", b"HEAD")
            if self._writes:
                self.see(_plain(f"{head[1].decode()} {head[2].decode()}"))
        elif self._writes:
            self.see("body")

    def _see_file(self, act: str, path: object, folder: int = -1) -> None:
        where = _place(path, folder)
        if where == "pipe" and act == "write":
            self.see("tell to go")
        for root in self._folders:
            if where.startswith(f"{root}/") and _has_effect(act, where):
                self.see(_plain(f"{act} {os.path.basename(root)}{where.removeprefix(root)}"))


def _place(path: object, folder: int) -> str:
    """Where a name, or what was opened, is."""
    if isinstance(path, int):
        # a pipe is how a program is told to go
        return "pipe" if stat.S_ISFIFO(os.fstat(path).st_mode) else os.readlink(f"/proc/self/fd/{path}")
    if isinstance(path, str | bytes | Path):
        return os.path.join(os.readlink(f"/proc/self/fd/{folder}") if folder >= 0 else "", os.fsdecode(path))
    return ""


def _has_effect(act: str, path: str) -> bool:
    """Not so what is tried in vain: to remove what is gone, to make a folder in none."""
    return os.path.lexists(path if act == "remove" else os.path.dirname(path))


def _plain(label: str) -> str:
    """Without what differs from run to run; which file of a folder is removed first is chance."""
    for pattern, word in PARTS:
        label = pattern.sub(word, label)
    return label


def last(effects: Effects, run: Callable[[], None]) -> list[str]:
    """Count the effects of `run`; the last one is that the caller hears of it."""
    effects.watch()
    effects.on = True
    run()
    effects.see("answer")
    effects.on = False
    return effects.labels
