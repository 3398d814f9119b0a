"""The gate's program (`gate` in sandbox.programs): it reads one upload and writes a fresh file of checked values.

It writes to standard output one line of JSON, and after facts the bytes of the fresh file. The line is `{"facts": …}`,
`{"refusal": {"code", "detail", "remedy"}}`, or `{"errno": …}` where the disk has no room to unpack. The process serves
one upload. It first limits its own memory and processor time, and may write only the files that it unpacks from a
folder's archive, in its working directory.
"""

import json
import resource
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from app.errors import Invalid
from app.intake.huggingface.rewrite import is_folder, read_folder
from app.intake.limits import Limits
from app.intake.pickles.weights import is_pickled, read_pickled_weights
from app.intake.program.read import read_program
from app.intake.recognition import look_at, refuse_foreign, refuse_models
from app.intake.tensors.read import name_for, plan_samples
from app.intake.tensors.safetensors import begins_safetensors
from app.intake.tensors.weights import read_weights
from app.room import NO_ROOM


class Checked(Protocol):
    """A checked upload: the facts about it, and the bytes that replace it from now on."""

    @property
    def facts(self) -> Any: ...

    def write(self, target: BinaryIO) -> None: ...


def read(kind: str, path: Path, limits: Limits, filename: str) -> Checked:
    """Check an upload of this kind. Raises Invalid."""
    if kind == "model":
        return read_model(path, limits)
    look = look_at(path)
    if not begins_safetensors(look.head):
        refuse_models(look)
    return plan_samples(path, limits.unpacked_bytes(kind, path.stat().st_size), name_for(filename))


def read_model(path: Path, limits: Limits) -> Checked:
    """Check a model whose format its first bytes decide. Raises Invalid."""
    look = look_at(path)
    if begins_safetensors(look.head):
        return read_weights(path)
    if is_pickled(look):
        return read_pickled_weights(path)
    refuse_foreign(look)
    if not is_folder(path):
        return read_program(path, limits)
    return read_folder(path, Path.cwd(), limits.unpacked_bytes("model", path.stat().st_size))


def main(lock_down: Callable[[], None], kind: str, path: str, limits_text: str, filename: str) -> int:
    """Read the upload and return 0; any error that is not a refusal ends the program with a traceback."""
    lock_down()
    limits = Limits.from_json(limits_text)
    confine(kind, limits)
    try:
        checked = read(kind, Path(path), limits, filename)
        head: dict[str, Any] = {"facts": asdict(checked.facts)}
    except Invalid as refusal:
        head = {"refusal": {"code": refusal.code, "detail": refusal.detail, "remedy": refusal.remedy}}
    except (MemoryError, RecursionError):
        head = {"refusal": too_demanding(limits)}
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        head = {"errno": error.errno}
    out = sys.stdout.buffer
    out.write(json.dumps(head).encode() + b"\n")
    if "facts" in head:
        checked.write(out)
    out.flush()
    return 0


def too_demanding(limits: Limits) -> dict[str, str]:
    """Return the refusal of a file that can't be read within the limits."""
    return {
        "code": "upload_too_demanding",
        "detail": f"Reading the file takes more than {limits.memory_bytes} bytes of memory or {limits.seconds} s.",
        "remedy": "Upload a smaller file, or ask the operator to raise ZEROPOINT_GATE_MEMORY_BYTES or _SECONDS.",
    }


def most_to_write(kind: str, limits: Limits) -> int:
    """Return how large a file the program may write: none for a dataset, which is read where it is."""
    return limits.folder_bytes if kind == "model" else 0


def confine(kind: str, limits: Limits) -> None:
    """Limit memory, processor time, open files and written files of this process, irrevocably."""
    for what, limit in (
        (resource.RLIMIT_AS, limits.memory_bytes),
        (resource.RLIMIT_CPU, limits.seconds),
        (resource.RLIMIT_FSIZE, most_to_write(kind, limits)),
        (resource.RLIMIT_NOFILE, 32),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(what, (limit, limit))
