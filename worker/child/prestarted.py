"""The next job's process, started before there is a job: it has imported torch, and waits in an empty folder.

Each is started by exec, used for one job and gone with it, so nothing of one job is in the next. If none waits, one is
started then: a job finds the same process either way, sooner or later.
"""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from sandbox.policy import Sandbox, command
from worker.child.process import Child, started
from worker.child.scratch import JobFolder, make_folder


@dataclass(frozen=True)
class PrestartedChild:
    """A process that waits for its job, and its folder; `end` stops the process and removes the folder."""

    child: Child
    folder: JobFolder
    end: Callable[[], None]


class PrestartedChildren:
    """Keeps one process waiting. Used by one thread only: the kernel ends a child with the thread that started it."""

    def __init__(self, scratch: Path, sandbox: Sandbox) -> None:
        self._scratch = scratch
        self._sandbox = sandbox
        self._waiting: PrestartedChild | None = None

    def prepare(self) -> None:
        """Start a process that waits, unless one does already."""
        if self._waiting is None:
            self._waiting = _start(self._scratch, self._sandbox)

    def claim(self) -> PrestartedChild:
        """Return the waiting process if it still lives, or start one."""
        prestarted, self._waiting = self._waiting, None
        if prestarted is not None:
            prestarted.child.read(0)
            if not prestarted.child.ended:
                return prestarted
            prestarted.end()
        return _start(self._scratch, self._sandbox)

    def close(self) -> None:
        """Stop the waiting process."""
        prestarted, self._waiting = self._waiting, None
        if prestarted is not None:
            prestarted.end()


def _start(scratch: Path, sandbox: Sandbox) -> PrestartedChild:
    with ExitStack() as stack:
        folder = make_folder(scratch)
        stack.callback(folder.remove)
        child = stack.enter_context(started(command("job", sandbox), folder.path))
        return PrestartedChild(child, folder, stack.pop_all().close)
