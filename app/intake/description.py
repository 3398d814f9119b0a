"""Describe a Hugging Face folder by building its network with transformers, in a separate process.

The gate has already checked and rewritten the folder without that library; only its fresh file is read here.
"""

from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from app.errors import Invalid
from app.intake.confined import Stop, ask
from app.intake.limits import Limits
from sandbox.policy import Sandbox

LEAST_MEMORY_BYTES = 2**30
"""That the libraries need, of the memory that a gate may have: the description runs in the gate's place."""
NEEDED = ("torch", "transformers")


def describe_folder(
    path: Path, limits: Limits, stop: Stop | None = None, needed: Iterable[str] = NEEDED
) -> dict[str, Any]:
    """Return inputs, layers and parameters of the folder that the gate wrote. Raises Invalid, Stopped, RuntimeError."""
    if not all(map(find_spec, needed)):
        raise Invalid(
            "transformers_missing",
            "Hugging Face folders need the library transformers, which is not installed here.",
            "Ask the operator to install zeropoint[service,transformers], or export the model as a .pt2 program.",
        )
    if limits.memory_bytes < LEAST_MEMORY_BYTES:
        raise Invalid(
            "upload_too_demanding",
            f"A Hugging Face folder takes {LEAST_MEMORY_BYTES} bytes of memory to look at, and a check may have "
            f"{limits.memory_bytes} here.",
            "Ask the operator to raise ZEROPOINT_GATE_MEMORY_BYTES, or export the model as a .pt2 program.",
        )
    sandbox = Sandbox(
        memory_bytes=limits.memory_bytes,
        disk_bytes=2**20,  # standard error may go to a file
        cpu_seconds=limits.seconds,
        required=(),  # as for the gate, which has already checked every value
        reads=(str(path.resolve()),),
    )
    return ask("describe", path.resolve(), [str(path.resolve())], sandbox, limits, stop=stop)
