"""The program of every child: it confines itself, and only then becomes what it was started for.

    python -m sandbox.child job FOLDER SANDBOX       the job's program, warmed up and locked down before there is a job
    python -m sandbox.child loadback SANDBOX         its second process, confined already, locked down before the files
    python -m sandbox.child gate FOLDER SANDBOX …    app.intake.child, which the API starts for each upload
    python -m sandbox.child describe FOLDER SANDBOX … which it starts for Hugging Face folders
    python -m sandbox.child probe FOLDER SANDBOX     tries what must not work (see `self_test`)

Nothing heavier than the standard library is imported before the confinement.

A job's program may be started long before its job: FOLDER, its working directory, is empty; it gets ready, and waits
for the line GO on standard input. Until then the worker may rename the folder, and puts the job in. Landlock and the
working directory follow the folder itself, and nothing else is used before the line. Without it there is no job.
"""

import gc
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NoReturn

from sandbox import probe
from sandbox.policy import EXIT_UNCONFINED, GO, Sandbox, Unconfined, child_command, confine, lock_down, parse

HERE = "/proc/self/cwd"
"""The folder under whatever name it has, for this process and for those that it starts in it."""


def main(arguments: list[str]) -> int:
    """Be the program that the arguments name; without a required layer, none."""
    logging.basicConfig(format="sandbox: %(message)s")
    try:
        return _become(*arguments)
    except Unconfined as error:
        logging.error("%s", error)
        return EXIT_UNCONFINED


def _become(program: str, *rest: str) -> int:
    if program == "loadback":
        return _loadback(parse(rest[0]))
    folder, sandbox = Path(rest[0]), parse(rest[1])
    if program == "job":
        return _job(sandbox, rest[1])
    confine(folder, sandbox)
    if program == "probe":
        return probe.main(folder, partial(lock_down, sandbox))
    return (_describe if program == "describe" else _gate)(sandbox, rest[2:])


def _job(sandbox: Sandbox, told: str) -> NoReturn:
    confine(Path(os.curdir), sandbox)  # FOLDER may have another name by now
    # Libraries remember where their caches are when they are imported; the second process gets these too.
    os.environ.update(HOME=HERE, TMPDIR=HERE, TORCHINDUCTOR_CACHE_DIR=HERE)  # noqa: TID251 - no setting is read
    with _for_good():
        from zeropoint.entrypoints import job as run  # noqa: PLC0415 - once this process is confined
        from zeropoint.loading import loadback  # noqa: PLC0415 - once this process is confined

    with loadback.reader_process([*child_command("loadback"), told]) as process:
        lock_down(sandbox)
        exit_code = run.do_job(Path.cwd(), process) if sys.stdin.buffer.readline() == GO else 0
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exit_code)  # Python would take apart all that torch loaded, for half a second


def _gate(sandbox: Sandbox, arguments: Sequence[str]) -> int:
    from app.intake import child  # noqa: PLC0415 - like the others, once this process is confined

    lock_down(sandbox)
    child.main(*arguments)
    return 0


def _describe(sandbox: Sandbox, arguments: Sequence[str]) -> int:
    with _for_good():
        from zeropoint.entrypoints import describe, warmup  # noqa: F401, PLC0415

    lock_down(sandbox)
    describe.main(*arguments)
    return 0


def _loadback(sandbox: Sandbox) -> int:
    with _for_good():
        from zeropoint.entrypoints import warmup  # noqa: F401, PLC0415
        from zeropoint.loading import loadback  # noqa: PLC0415

    loadback.main(partial(lock_down, sandbox))
    return 0


@contextmanager
def _for_good() -> Iterator[None]:
    """What is imported here stays: the garbage collector need not look at it, now, later or at the exit."""
    gc.disable()
    yield
    gc.freeze()
    gc.enable()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
