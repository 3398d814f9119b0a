"""The program of every child: it confines itself, and only then becomes what it was started for.

    python -m worker.child job FOLDER SANDBOX       quantization.run, locked down before it opens the upload
    python -m worker.child loadback SANDBOX         its second process, confined already, locked down before the files
    python -m worker.child gate FOLDER SANDBOX …    app.intake.child, which the API starts for each upload
    python -m worker.child probe FOLDER SANDBOX     tries what must not work (see `self_test`)

Nothing heavier than the standard library is imported before the confinement.
"""

import logging
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from worker import probe
from worker.sandbox import EXIT_UNCONFINED, Sandbox, Unconfined, child_command, confine, lock_down, parse


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
    confine(folder, sandbox)
    if program == "probe":
        return probe.main(folder, partial(lock_down, sandbox))
    if program == "gate":
        return _gate(sandbox, rest[2:])
    return _job(folder, sandbox, rest[1])


def _job(folder: Path, sandbox: Sandbox, told: str) -> int:
    from quantization import run  # noqa: PLC0415 - torch is imported by a process that is confined already

    guard = run.Guard(reader=[*child_command("loadback"), told], before_opening=partial(lock_down, sandbox))
    return run.main([str(folder)], guard)


def _gate(sandbox: Sandbox, arguments: Sequence[str]) -> int:
    from app.intake import child  # noqa: PLC0415 - like the others, once this process is confined

    lock_down(sandbox)
    child.main(*arguments)
    return 0


def _loadback(sandbox: Sandbox) -> int:
    from quantization import loadback  # noqa: PLC0415

    loadback.main(partial(lock_down, sandbox))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
