"""Engine, sessions, migrations, and the column types that tables share."""

import os
import secrets
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import (
    URL,
    Connection,
    DateTime,
    Dialect,
    Engine,
    MetaData,
    TypeDecorator,
    create_engine,
    event,
    exc,
    func,
    select,
)
from sqlalchemy import make_url as parse_url
from sqlalchemy.orm import DeclarativeBase, Session, sessionmaker

from app.settings import Settings

_INSTALLED = Path(__file__).resolve().parent / "migrations"
MIGRATIONS = _INSTALLED if _INSTALLED.is_dir() else Path(__file__).resolve().parents[1] / "alembic"
"""A wheel carries them inside the package; in a checkout they are where Alembic's own command looks."""

NAMES = {
    "ix": "ix_%(column_0_label)s",
    "uq": "uq_%(table_name)s_%(column_0_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

KEEPALIVES = {"keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3, "tcp_user_timeout": 15_000}
"""A host that disappears without closing its connections is noticed within half a minute."""


TELLS_MLFLOW = "zeropoint_tells_mlflow"
"""The option of an engine by which whoever writes rows of jobs knows that MLflow is to hear of them."""
POOL_SECONDS = 2.0
SPARE_CONNECTIONS = 4
"""Of an API process, beside those for requests: for health checks, metrics, and requests that wait for jobs."""


@dataclass(frozen=True)
class Patience:
    """How long a connection waits, in seconds, for another one's lock and for a statement."""

    lock_seconds: int = 30
    statement_seconds: int = 30


OF_WORK = Patience()
OF_REQUESTS = Patience(lock_seconds=2, statement_seconds=10)
"""A client that waits for an answer rather hears soon that it has to ask again."""


class Trouble(StrEnum):
    """What is wrong with a database that could not do what it was asked."""

    BUSY = "a lock or a connection was not to be had in time"
    NOT_MIGRATED = "a table or column is missing; run zeropoint migrate"
    FULL = "it has no room left"
    AWAY = "it does not answer"


_SQLITE_TROUBLES = {
    sqlite3.SQLITE_BUSY: Trouble.BUSY,
    sqlite3.SQLITE_LOCKED: Trouble.BUSY,
    sqlite3.SQLITE_FULL: Trouble.FULL,
}
_POSTGRESQL_TROUBLES = {
    "55P03": Trouble.BUSY,  # lock_timeout
    "57014": Trouble.BUSY,  # statement_timeout
    "40001": Trouble.BUSY,  # could not be serialized
    "40P01": Trouble.BUSY,  # deadlock
    "53300": Trouble.BUSY,  # all of the server's connections are used
    "53100": Trouble.FULL,
    "42P01": Trouble.NOT_MIGRATED,
    "42703": Trouble.NOT_MIGRATED,
}
_AWAY = (exc.OperationalError, exc.InterfaceError, exc.InternalError)
_MISSING = ("no such table", "no such column", "has no column")
"""How SQLite says it, which has one number for everything that it can't parse."""


class Base(DeclarativeBase):
    metadata = MetaData(naming_convention=NAMES)


class UtcDateTime(TypeDecorator[datetime]):
    """An aware UTC time on both sides; SQLite itself keeps no zone."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, _dialect: Dialect) -> datetime | None:
        return value.astimezone(UTC) if value else None

    def process_result_value(self, value: Any | None, _dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        moment: datetime = value
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def new_id(prefix: str, at: datetime) -> str:
    """Return an id such as job_18a…: ids sort by the time at which they were made (see `clock`)."""
    return first_id(prefix, at) + secrets.token_hex(8)


def first_id(prefix: str, at: datetime) -> str:
    """Return the lower bound of the ids that were made at a time or later; earlier ones are below it."""
    nanoseconds = (at - _EPOCH) // timedelta(microseconds=1) * 1000
    return f"{prefix}_{nanoseconds:016x}"


def clock(session: Session) -> datetime:
    """Return the present by the database's own clock, as an aware UTC time. SQLite's is this machine's.

    No other clock gives a row its time: all who share a database agree on when a lease ends and who was seen lately,
    however wrong the clocks of their machines are. A test finds other clocks.
    """
    if session.get_bind().dialect.name == "sqlite":
        return datetime.now(UTC)
    moment: datetime = session.execute(select(func.clock_timestamp())).scalar_one()
    return moment.astimezone(UTC)


def try_lock(session: Session, name: str) -> bool:
    """Try to lock a name until the transaction ends; return False if another has it. A writer on SQLite has it."""
    if session.get_bind().dialect.name == "sqlite":
        return True
    locked: bool = session.execute(select(func.pg_try_advisory_xact_lock(func.hashtext(name)))).scalar_one()
    return locked


def lock_name(session: Session, name: str) -> None:
    """Lock a name until the transaction ends, waiting for it. A writer on SQLite has it."""
    if session.get_bind().dialect.name != "sqlite":
        session.execute(select(func.pg_advisory_xact_lock(func.hashtext(name))))


def create_engine_for(settings: Settings, patience: Patience = OF_WORK, connections: int = 5) -> Engine:
    """Return an engine for the settings' database; nothing is connected yet."""
    url = parse_url(settings.database_url)
    pool: dict[str, Any] = {
        "pool_size": connections,
        "max_overflow": SPARE_CONNECTIONS,
        "pool_timeout": POOL_SECONDS,
    }
    told = {"execution_options": {TELLS_MLFLOW: settings.mlflow_tracking_uri is not None}}
    if url.get_backend_name() == "sqlite":
        return _sqlite_engine(url, patience, {**told, **(pool if url.database else {})})
    if url.drivername == "postgresql":
        url = url.set(drivername="postgresql+psycopg")
    connect_args = {"options": _postgresql_options(patience), "connect_timeout": 5, **KEEPALIVES}
    return create_engine(url, pool_pre_ping=True, connect_args=connect_args, **told, **pool)


def trouble_of(error: BaseException) -> Trouble | None:
    """Return what is wrong with the database; None if the error is our own mistake, or none of the database's."""
    if isinstance(error, exc.TimeoutError):
        return Trouble.BUSY
    if not isinstance(error, exc.DBAPIError):
        return None
    cause = error.orig
    if isinstance(cause, sqlite3.Error) and any(words in str(cause) for words in _MISSING):
        return Trouble.NOT_MIGRATED
    number, state = getattr(cause, "sqlite_errorcode", None) or 0, getattr(cause, "sqlstate", None) or ""
    known = _SQLITE_TROUBLES.get(number & 0xFF) or _POSTGRESQL_TROUBLES.get(state)
    away = error.connection_invalidated or isinstance(error, _AWAY) or type(error) is exc.DatabaseError
    return known or (Trouble.AWAY if away else None)


def create_sessions(engine: Engine) -> sessionmaker[Session]:
    """Return the factory of sessions; rows stay readable after a commit."""
    return sessionmaker(engine, expire_on_commit=False)


@contextmanager
def connected(settings: Settings) -> Iterator[sessionmaker[Session]]:
    """Yield sessions, whose connections are closed afterwards: none may be shared across a fork."""
    engine = _engine_of(settings, os.getpid())
    try:
        yield create_sessions(engine)
    finally:
        engine.dispose()


@lru_cache(maxsize=4)
def _engine_of(settings: Settings, _process: int) -> Engine:
    """Return the engine of this process: statements are compiled once for each, and kept for some hundred engines."""
    return create_engine_for(settings)


def begin_writing(session: Session) -> None:
    """Start a transaction that will write; a read that was left open ends.

    SQLite takes its write lock at once and waits for it. A transaction that begins by reading can't wait later: its
    snapshot would be stale, so SQLite refuses it at the first write.
    """
    session.rollback()
    session.connection(execution_options={"sqlite_begin": "BEGIN IMMEDIATE"})


def migrate(settings: Settings, revision: str = "head") -> None:
    """Bring the database to a revision."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["settings"] = settings
    if revision == "base":
        command.downgrade(config, revision)
    else:
        command.upgrade(config, revision)


def schema_is_current(connection: Connection) -> bool:
    """Return whether every migration has been applied."""
    return set(MigrationContext.configure(connection).get_current_heads()) == _heads()


@cache
def _heads() -> frozenset[str]:
    """Return the newest revisions. Every migration is read for it, which takes longer than any check may."""
    return frozenset(ScriptDirectory(str(MIGRATIONS)).get_heads())


def _postgresql_options(patience: Patience) -> str:
    limits = {
        "statement_timeout": patience.statement_seconds,
        "lock_timeout": patience.lock_seconds,
        "idle_in_transaction_session_timeout": 60,
    }
    return " ".join(f"-c {name}={seconds}s" for name, seconds in limits.items())


def _sqlite_engine(url: URL, patience: Patience, pool: dict[str, Any]) -> Engine:
    if url.database:
        Path(url.database).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    engine = create_engine(url, connect_args={"timeout": patience.lock_seconds}, **pool)
    event.listen(engine, "connect", partial(_prepare_sqlite, patience))
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(patience: Patience, connection: Any, _record: object) -> None:
    # The driver would begin transactions by itself, late and never IMMEDIATE.
    connection.isolation_level = None
    wait = f"busy_timeout = {1000 * patience.lock_seconds}"
    for pragma in (wait, "journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    connection.exec_driver_sql(connection.get_execution_options().get("sqlite_begin", "BEGIN"))
