"""Engine, sessions, migrations, and the column types that tables share."""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
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

POSTGRESQL_OPTIONS = "-c statement_timeout=30s -c lock_timeout=10s -c idle_in_transaction_session_timeout=60s"

KEEPALIVES = {"keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3, "tcp_user_timeout": 15_000}
"""A host that disappears without closing its connections is noticed within half a minute."""


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
    nanoseconds = (at - _EPOCH) // timedelta(microseconds=1) * 1000
    return f"{prefix}_{nanoseconds:016x}{secrets.token_hex(8)}"


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


def create_engine_for(settings: Settings) -> Engine:
    """Return an engine for the settings' database; nothing is connected yet."""
    url = parse_url(settings.database_url)
    if url.get_backend_name() == "sqlite":
        return _sqlite_engine(url)
    if url.drivername == "postgresql":
        url = url.set(drivername="postgresql+psycopg")
    connect_args = {"options": POSTGRESQL_OPTIONS, "connect_timeout": 5, **KEEPALIVES}
    return create_engine(url, pool_pre_ping=True, connect_args=connect_args)


def create_sessions(engine: Engine) -> sessionmaker[Session]:
    """Return the factory of sessions; rows stay readable after a commit."""
    return sessionmaker(engine, expire_on_commit=False)


@contextmanager
def connected(settings: Settings) -> Iterator[sessionmaker[Session]]:
    """Yield sessions of an engine of its own, closed afterwards: no connection may be shared across a fork."""
    engine = create_engine_for(settings)
    try:
        yield create_sessions(engine)
    finally:
        engine.dispose()


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
    heads = ScriptDirectory(str(MIGRATIONS)).get_heads()
    return set(MigrationContext.configure(connection).get_current_heads()) == set(heads)


def _sqlite_engine(url: URL) -> Engine:
    if url.database:
        Path(url.database).parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(url, connect_args={"timeout": 30})
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(connection: Any, _record: object) -> None:
    # The driver would begin transactions by itself, late and never IMMEDIATE.
    connection.isolation_level = None
    for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON", "busy_timeout = 30000"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    connection.exec_driver_sql(connection.get_execution_options().get("sqlite_begin", "BEGIN"))
