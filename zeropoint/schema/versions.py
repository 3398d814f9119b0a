"""Which software made a result: written into every report and artifact."""

from collections.abc import Iterable
from importlib.metadata import version


def versions(more: Iterable[str] = ()) -> dict[str, str]:
    """Package name -> version of what decides the numbers in an artifact."""
    return {name: version(name) for name in ("zeropoint", "torch", "safetensors", *more)}
