"""Which software made a result: written into every report and artifact."""

from collections.abc import Iterable
from importlib.metadata import version

import zeropoint


def versions(more: Iterable[str] = ()) -> dict[str, str]:
    """Return name -> version of the packages that decide the numbers in an artifact, and of `more` packages.

    Zeropoint's own is what the code says: a checkout on `sys.path` was never installed.
    """
    return {"zeropoint": zeropoint.__version__} | {name: version(name) for name in ("torch", "safetensors", *more)}
