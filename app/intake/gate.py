"""The gate: a short-lived process reads each upload, and only the file that it writes is kept."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from app.intake.child import most_to_write
from app.intake.confined import Stop, ask
from app.intake.limits import Limits
from sandbox import policy
from sandbox.policy import Sandbox

LAYERS = tuple(layer for layer in policy.LAYERS if layer != "network_namespace")
"""All but one: seccomp already refuses every socket, and creating a namespace costs each upload some milliseconds."""


def pass_gate(
    kind: str,
    path: Path,
    limits: Limits,
    write: Callable[[bytes], None],
    filename: str = "",
    *,
    stop: Stop | None = None,
) -> dict[str, Any]:
    """Check the upload at `path`, pass the fresh file to `write` in chunks, and return the facts about it.

    `kind`: "model" or "dataset"; `filename`: the client's name of the file. Raises Invalid with what is wrong, where,
    and what to do; Stopped; RuntimeError when the gate itself fails. Memory use here does not depend on the upload.
    """
    upload = path.resolve()
    arguments = [kind, str(upload), limits.as_json(), filename]
    return ask("gate", upload, arguments, sandbox_for(kind, str(upload), limits), limits, stop=stop, write=write)


def sandbox_for(kind: str, upload: str, limits: Limits) -> Sandbox:
    """Return the program's sandbox: it can read our code and the upload, and has room to unpack a folder."""
    return Sandbox(
        memory_bytes=limits.memory_bytes,
        disk_bytes=most_to_write(kind, limits),
        cpu_seconds=limits.seconds,
        required=(),  # strict reading protects us; the sandbox guards against flaws of the interpreter
        layers=LAYERS,
        reads=(upload,),
    )
