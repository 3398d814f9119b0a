"""The job's program in this process; all jobs share one second process, since most take less time than its start."""

import atexit
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path

from zeropoint.entrypoints.job import do_job
from zeropoint.loading.loadback import LoadbackClient, Pipes, loadback_client, loadback_process


def run_job(folder: Path) -> int:
    """Do the job of a folder and return the program's exit code."""
    return do_job(folder.resolve(), _second_process())


@contextmanager
def shared_second_process(folder: Path) -> Iterator[LoadbackClient]:
    """Stand in for `second_process`: the same, but for the start."""
    with loadback_client(folder, _second_process()) as client:
        yield client


@cache
def _second_process() -> Pipes:
    stack = ExitStack()
    atexit.register(stack.close)
    return stack.enter_context(loadback_process())
