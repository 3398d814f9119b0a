"""What a Hugging Face folder is: asked of the library that builds networks, in a process of its own.

The gate took the folder apart and wrote it anew without that library; only what it wrote is looked at here.
"""

from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from app.errors import Invalid
from app.intake.confined import ask
from app.intake.limits import Limits
from sandbox.policy import Sandbox

MEMORY_BYTES = 8 * 2**30
"""Of addresses, of which the library reserves far more than it uses."""
NEEDED = ("torch", "transformers")


def describe_folder(path: Path, limits: Limits, needed: Iterable[str] = NEEDED) -> dict[str, Any]:
    """Inputs, layers and parameters of the folder that the gate wrote at `path`. Raises Invalid, or RuntimeError."""
    if not all(map(find_spec, needed)):
        raise Invalid(
            "transformers_missing",
            "Hugging Face folders are built with the library transformers, which is not installed here.",
            "Ask the operator to install zeropoint[service,transformers], or export the model as a .pt2 program.",
        )
    sandbox = Sandbox(
        memory_bytes=max(MEMORY_BYTES, limits.memory_bytes),
        disk_bytes=2**20,  # what it says on standard error may go to a file
        cpu_seconds=limits.seconds,
        required=(),  # as for the gate, which looked at every value before
        reads=(str(path.resolve()),),
    )
    return ask("describe", path.resolve(), [str(path.resolve())], sandbox, limits)
