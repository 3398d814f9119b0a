"""Every confined process starts here: it confines itself, and only then loads the program that it was started for.

    python -m sandbox.child PROGRAM SANDBOX [ARGUMENT …]        PROGRAM: a name in `programs`; SANDBOX: see `policy`

Nothing heavier than the standard library is imported before the confinement.

The working directory is the one folder that the process may write to. The parent may rename it until the program locks
itself down: Landlock and the working directory follow the folder itself, and no other path is used before that.
"""

import gc
import logging
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import NoReturn

from sandbox.parent_death import die_with
from sandbox.policy import EXIT_UNCONFINED, LockDown, Unconfined, confine, parse
from sandbox.programs import PROGRAMS, Program

HERE = "/proc/self/cwd"
"""The working directory under any name it gets, for this process and those that it starts there."""


def main(name: str, sandbox_text: str, *arguments: str) -> int:
    """Become the program of this name and return its exit code, EXIT_UNCONFINED where a required layer is off."""
    logging.basicConfig(format="sandbox: %(message)s")
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # it ends as with any signal: who started it sees which
    program, sandbox = PROGRAMS[name], parse(sandbox_text)
    try:
        confine(Path(os.curdir), sandbox)
        exit_code: int = load(program).main(LockDown(sandbox), *arguments)
    except Unconfined as error:
        logging.error("%s", error)
        return EXIT_UNCONFINED
    return exit_code


def load(program: Program) -> ModuleType:
    """Import the program. Libraries remember where their caches are when they are imported: in the folder."""
    os.environ.update(HOME=HERE, TMPDIR=HERE, TORCHINDUCTOR_CACHE_DIR=HERE)  # noqa: TID251 - no setting is read
    with _kept_for_good():
        if program.preload is not None:
            import_module(program.preload)
        return import_module(program.module)


@contextmanager
def _kept_for_good() -> Iterator[None]:
    """Exempt what is imported in this block from Python's garbage collection."""
    gc.disable()
    yield
    gc.freeze()
    gc.enable()


def leave(code: int) -> NoReturn:
    """End the process at once: Python would spend half a second on unloading torch."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    die_with(os.getppid())  # who waits for the answer; threads of the API can't fork safely to say so themselves
    leave(main(*sys.argv[1:]))
