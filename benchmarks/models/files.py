"""Where weights and data come from: installed Python packages, found without importing them, and Debian packages."""

import importlib.util
from pathlib import Path

SHARED = Path("/usr/share")
"""Where Debian puts data."""


class Missing(Exception):
    """What a model needs is not installed."""


def package_file(package: str, name: str) -> Path:
    """A file of an installed Python package. Raises Missing."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise Missing(f"the Python package {package} is not installed")
    return _present(Path(spec.submodule_search_locations[0]) / name, package)


def shared_file(name: str, package: str) -> Path:
    """A file or folder of an installed Debian package. Raises Missing."""
    return _present(SHARED / name, package)


def _present(path: Path, package: str) -> Path:
    if not path.exists():
        raise Missing(f"{path.name} of the package {package} is not there")
    return path
