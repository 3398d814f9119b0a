"""The next job's process, started before there is a job: it has imported torch, and waits in an empty folder.

Each is started by exec, used for one job and gone with it, so nothing of one job is in the next. Where none waits, one
is started then: a job finds the same process either way, only sooner or later.
"""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from sandbox.policy import Sandbox, job_command
from worker.child.process import Child, started
from worker.child.scratch import Folder, make_folder


@dataclass(frozen=True)
class Spare:
    """A process that waits to be told to go, and its folder; `end` stops the one and removes the other."""

    child: Child
    folder: Folder
    end: Callable[[], None]


class Spares:
    """Keeps one at hand. Only ever used by one thread: the kernel ends a child with the thread that started it."""

    def __init__(self, scratch: Path, sandbox: Sandbox) -> None:
        self._scratch = scratch
        self._sandbox = sandbox
        self._waiting: Spare | None = None

    def prepare(self) -> None:
        """Have one at hand from now on."""
        if self._waiting is None:
            self._waiting = _start(self._scratch, self._sandbox)

    def take(self) -> Spare:
        """The one that waits, if it still does, or one that was started just now."""
        spare, self._waiting = self._waiting, None
        if spare is not None:
            spare.child.read(0)
            if not spare.child.ended:
                return spare
            spare.end()
        return _start(self._scratch, self._sandbox)

    def close(self) -> None:
        """Leave none."""
        spare, self._waiting = self._waiting, None
        if spare is not None:
            spare.end()


def _start(scratch: Path, sandbox: Sandbox) -> Spare:
    with ExitStack() as stack:
        folder = make_folder(scratch)
        stack.callback(folder.remove)
        child = stack.enter_context(started(job_command(sandbox), folder.path))
        return Spare(child, folder, stack.pop_all().close)
