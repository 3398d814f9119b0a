"""The versions of the software that made a result, for reports and artifacts."""

from collections.abc import Iterable
from importlib.metadata import version

import zeropoint


def versions(more: Iterable[str] = ()) -> dict[str, str]:
    """Return package name -> version for every package that affects an artifact's values, and for `more`.

    Zeropoint's own is what the code says: a checkout on `sys.path` was never installed.
    """
    return {"zeropoint": zeropoint.__version__} | {name: version(name) for name in ("torch", "safetensors", *more)}
