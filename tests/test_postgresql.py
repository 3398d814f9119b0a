"""One database serves one test after another, and is new to each."""

from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from app.database import migrate
from app.settings import Settings
from tests.postgresql import Databases

TURN = "INSERT INTO turns (project, served_at) VALUES ('somebody', now())"
CHANGES: dict[str, Callable[[psycopg.Connection[Any], str], object]] = {
    "a row": lambda connection, _: connection.execute(TURN),
    "no table": lambda _, address: migrate(Settings(database_url=address), "base"),
    "another table": lambda connection, _: connection.execute("CREATE TABLE more ()"),
    "another column": lambda connection, _: connection.execute("ALTER TABLE turns ADD COLUMN more int"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_nothing_of_one_test_is_there_for_the_next(databases: Databases, change: str) -> None:
    before = databases.fresh()
    with psycopg.connect(before, autocommit=True) as left:  # still connected, as what a test forgot
        CHANGES[change](left, before)
        after = databases.fresh()
        with pytest.raises(psycopg.OperationalError):
            left.execute("SELECT 1")
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(before)
    with psycopg.connect(after) as connection:
        assert connection.execute("SELECT * FROM turns").fetchall() == []
        assert connection.execute("SELECT to_regclass('more'), to_regclass('jobs')").fetchone() == (None, "jobs")
        columns = "SELECT count(*) FROM information_schema.columns WHERE column_name = 'more'"
        assert connection.execute(columns).fetchone() == (0,)
