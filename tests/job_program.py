"""The job's program in this process; all jobs share one second process, since most take less time than its start."""

import atexit
from contextlib import ExitStack
from functools import cache
from pathlib import Path

from zeropoint.entrypoints.job import do_job
from zeropoint.loading.loadback import Pipes, loadback_process


def run_job(folder: Path) -> int:
    """Do the job of a folder and return the program's exit code."""
    return do_job(folder.resolve(), _second_process())


@cache
def _second_process() -> Pipes:
    stack = ExitStack()
    atexit.register(stack.close)
    return stack.enter_context(loadback_process())
