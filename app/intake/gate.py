"""The gate: an upload goes through a short-lived process that reads it, and only what comes out is kept."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Timer
from typing import Any

import app
from app.errors import Invalid
from app.intake.child import most_to_write, too_demanding
from app.intake.limits import Limits

CODE = Path(app.__file__).parents[1]
LAYERS = ("rlimits", "privileges", "landlock", "signals", "seccomp")
CHUNK_BYTES = 2**20
MAX_HEAD_BYTES = 64 * 2**20


def pass_gate(
    kind: str, path: Path, limits: Limits, write: Callable[[bytes], None], filename: str = ""
) -> dict[str, Any]:
    """Check the upload at `path`, give the fresh file to `write` piece by piece, and return the facts about it.

    `kind`: "model" or "dataset"; `filename`: what the client calls the file. Raises Invalid with where, what and what
    to do; RuntimeError when the gate itself breaks. Memory here stays flat whatever the upload holds.
    """
    arguments = [kind, str(path.resolve()), limits.as_json(), filename]
    with (
        TemporaryDirectory() as folder,
        subprocess.Popen(
            _command(Path(folder), path.resolve(), limits, arguments),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            cwd=folder,
            env={"LANG": "C.UTF-8", "PYTHONPATH": str(CODE)},  # nothing of ours: no credential, no setting
            start_new_session=True,
        ) as process,
    ):
        alarm = Timer(limits.seconds, process.kill)
        alarm.start()
        try:
            head = _receive(process, write)
        except BaseException:
            process.kill()
            raise
        finally:
            alarm.cancel()
    if process.returncode < 0:
        raise refusal(too_demanding(limits))
    if process.returncode > 0 or head is None:
        raise RuntimeError(f"the gate ended with {process.returncode}; its own words are on standard error")
    if "refusal" in head:
        raise refusal(head["refusal"])
    facts: dict[str, Any] = head["facts"]
    return facts


def refusal(words: dict[str, str]) -> Invalid:
    """The refusal that the child wrote."""
    return Invalid(words["code"], words["detail"], words["remedy"])


def _receive(process: "subprocess.Popen[bytes]", write: Callable[[bytes], None]) -> dict[str, Any] | None:
    """Read the line, pass the rest on, and wait for the end."""
    assert process.stdout is not None
    line = process.stdout.readline(MAX_HEAD_BYTES)
    while chunk := process.stdout.read(CHUNK_BYTES):
        write(chunk)
    process.wait()
    return json.loads(line) if line.endswith(b"\n") else None


def _command(folder: Path, upload: Path, limits: Limits, arguments: list[str]) -> list[str]:
    """The gate's program inside the sandbox that jobs have, started by name: it may read our code and the upload."""
    kind = arguments[0]
    sandbox = {
        "memory_bytes": limits.memory_bytes,
        "disk_bytes": most_to_write(kind, limits),
        "cpu_seconds": limits.seconds,
        "required": [],  # strict reading is what holds here; the sandbox is there for what the interpreter may lack
        "layers": LAYERS,
        "reads": [str(CODE / "app"), str(upload)],
    }
    return [sys.executable, "-P", "-m", "worker.child", "gate", str(folder), json.dumps(sandbox), *arguments]
