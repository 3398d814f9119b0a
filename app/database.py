"""Engine, sessions, migrations, and the column types that tables share."""

import secrets
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import URL, Connection, DateTime, Dialect, Engine, MetaData, TypeDecorator, create_engine, event
from sqlalchemy import make_url as parse_url
from sqlalchemy.orm import DeclarativeBase, Session, sessionmaker

from app.settings import Settings

MIGRATIONS = Path(__file__).resolve().parent.parent / "alembic"

NAMES = {
    "ix": "ix_%(column_0_label)s",
    "uq": "uq_%(table_name)s_%(column_0_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}

POSTGRESQL_OPTIONS = "-c statement_timeout=30s -c lock_timeout=10s -c idle_in_transaction_session_timeout=60s"


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


def new_id(prefix: str) -> str:
    """Return an id such as job_18a…: ids sort by the time they were made."""
    return f"{prefix}_{time.time_ns():016x}{secrets.token_hex(8)}"


def now() -> datetime:
    """Return the present as an aware UTC time."""
    return datetime.now(UTC)


def create_engine_for(settings: Settings) -> Engine:
    """Return an engine for the settings' database; nothing is connected yet."""
    url = parse_url(settings.database_url)
    if url.get_backend_name() == "sqlite":
        return _sqlite_engine(url)
    if url.drivername == "postgresql":
        url = url.set(drivername="postgresql+psycopg")
    connect_args = {"options": POSTGRESQL_OPTIONS, "connect_timeout": 5}
    return create_engine(url, pool_pre_ping=True, connect_args=connect_args)


def create_sessions(engine: Engine) -> sessionmaker[Session]:
    """Return the factory of sessions; rows stay readable after a commit."""
    return sessionmaker(engine, expire_on_commit=False)


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
    """Whether every migration has been applied."""
    wanted = ScriptDirectory(str(MIGRATIONS)).get_heads()
    return set(MigrationContext.configure(connection).get_current_heads()) == set(wanted)


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
