"""A process that does one operation and stops on the way: `python -m tests.reliability.driver FOLDER`.

It has imported the product and holds no connection; for each line on standard input it forks, and the fork does the
work. So a death costs milliseconds, and is a real one: nothing is unwound, and the kernel lets go of what was held.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

from app.main import create_app
from app.settings import Settings
from app.storage.local import folder_of
from tests.reliability.effects import Effects, last
from tests.reliability.operations import OPERATIONS, Place


def serve() -> None:
    """Answer every order with the exit code of the fork and the effects that it had."""
    app = create_app(Settings(database_url="sqlite://", storage_url=f"file:{sys.argv[1]}"), reconciles=False)
    for line in sys.stdin:
        order = json.loads(line)
        place = Place(Settings(**order["settings"]), app, Path(order["archive"]), Path(order["out"]), ids=order["ids"])
        code, labels = _in_a_fork(place, order)
        sys.stdout.write(json.dumps({"code": code, "labels": labels}) + "\n")
        sys.stdout.flush()


def _in_a_fork(place: Place, order: dict[str, Any]) -> tuple[int, list[str]]:
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        labels: list[str] = []
        code = 1
        try:
            os.close(reading)
            os.dup2(2, 1)  # the answers are the parent's
            labels = _do(place, order)
            os.write(writing, json.dumps(labels).encode())
            code = 0
        except SystemExit as told:
            code = int(told.code or 0)
        finally:
            sys.stderr.flush()
            os._exit(code)
    os.close(writing)
    with open(reading, "rb") as pipe:
        said = pipe.read()
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status), json.loads(said) if said else []


def _do(place: Place, order: dict[str, Any]) -> list[str]:
    operation = OPERATIONS[order["operation"]]
    folders = [place.settings.scratch_dir]
    if place.settings.storage_url.startswith("file:"):
        storage = folder_of(place.settings.storage_url)
        folders += [storage / "tmp", storage / "blobs"]
    effects = Effects(folders, operation.thread, order["stop_before"], order["how"])
    return last(effects, operation.prepare(place))


if __name__ == "__main__":
    serve()
