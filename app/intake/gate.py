"""The gate: an upload goes through a short-lived process that reads it, and only what comes out is kept."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from app.intake.child import most_to_write
from app.intake.confined import ask
from app.intake.limits import Limits
from sandbox import policy
from sandbox.policy import Sandbox

LAYERS = tuple(layer for layer in policy.LAYERS if layer != "network_namespace")
"""All but one: seccomp refuses every socket too, and to make a namespace costs each upload some milliseconds."""


def pass_gate(
    kind: str, path: Path, limits: Limits, write: Callable[[bytes], None], filename: str = ""
) -> dict[str, Any]:
    """Check the upload at `path`, give the fresh file to `write` piece by piece, and return the facts about it.

    `kind`: "model" or "dataset"; `filename`: what the client calls the file. Raises Invalid with where, what and what
    to do; RuntimeError when the gate itself breaks. Memory here stays flat whatever the upload holds.
    """
    upload = path.resolve()
    arguments = [kind, str(upload), limits.as_json(), filename]
    return ask("gate", upload, arguments, sandbox_for(kind, str(upload), limits), limits, write=write)


def sandbox_for(kind: str, upload: str, limits: Limits) -> Sandbox:
    """Return what the program gets: our code, the upload, and room to unpack a folder."""
    return Sandbox(
        memory_bytes=limits.memory_bytes,
        disk_bytes=most_to_write(kind, limits),
        cpu_seconds=limits.seconds,
        required=(),  # strict reading is what holds here; the sandbox is there for what the interpreter may lack
        layers=LAYERS,
        reads=(upload,),
    )
