"""The process of each job: forked from a template that has imported torch, and else started by itself.

Each is used for one job and gone with it, so nothing of one job is in the next. A job finds the same process either
way, sooner or later.
"""

from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

from sandbox.policy import Sandbox, command
from worker.child.process import Child, started
from worker.child.scratch import JobFolder, make_folder
from worker.child.template import NoTemplate, Template

PROGRAM = "job"


@dataclass(frozen=True)
class PrestartedChild:
    """A process that waits for its job, and its folder; `end` stops the process and removes the folder."""

    child: Child
    folder: JobFolder
    end: Callable[[], None]


class PrestartedChildren:
    """Keeps a template. Used by one thread only: the kernel ends a child with the thread that started it."""

    def __init__(self, scratch: Path, sandbox: Sandbox) -> None:
        self._scratch = scratch
        self._sandbox = sandbox
        self._template: Template | None = None

    def prepare(self) -> None:
        """Start a template, unless one serves."""
        if self._template is None or not self._template.serves:
            self.close()
            self._template = Template(PROGRAM)

    def claim(self) -> PrestartedChild:
        """Return a process for one job."""
        with ExitStack() as stack:
            folder = make_folder(self._scratch)
            stack.callback(folder.remove)
            child = self._start(folder.path, stack)
            return PrestartedChild(child, folder, stack.pop_all().close)

    def _start(self, folder: Path, stack: ExitStack) -> Child:
        """Return a process that works in `folder` and ends with `stack`."""
        with suppress(NoTemplate):
            if self._template is not None:
                return stack.enter_context(self._template.fork(folder, self._sandbox))
        return stack.enter_context(started(command(PROGRAM, self._sandbox), folder))

    def close(self) -> None:
        """End the template."""
        template, self._template = self._template, None
        if template is not None:
            template.close()
