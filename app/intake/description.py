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

MEMORY_BYTES = 8 * 2**30
"""Limit on address space, of which the library reserves far more than it uses."""
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
    sandbox = Sandbox(
        memory_bytes=max(MEMORY_BYTES, limits.memory_bytes),
        disk_bytes=2**20,  # standard error may go to a file
        cpu_seconds=limits.seconds,
        required=(),  # as for the gate, which has already checked every value
        reads=(str(path.resolve()),),
    )
    return ask("describe", path.resolve(), [str(path.resolve())], sandbox, limits, stop=stop)
