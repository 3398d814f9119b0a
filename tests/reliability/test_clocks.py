"""Machines whose clocks are wrong: every time in every row is the database's, and who lives is known."""

import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import select

from app.database import Base, clock
from app.jobs import queries, workers
from app.jobs.models import Job
from tests.factories import MOST
from tests.reliability.world import World
from tests.servers import ROOT

pytestmark = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)  # SQLite's is the machine's

LATER = {"pending_until": timedelta(seconds=MOST.pending)}
"""Times that lie ahead, and by how much."""
IDS = {"models": "id", "jobs": "id", "artifacts": "id"}


def times(world: World) -> Iterator[tuple[str, datetime]]:
    """Every time that any row has, and those in ids, by table and column."""
    for table in Base.metadata.sorted_tables:
        for row in world.session.execute(select(table)).mappings():
            for column, value in row.items():
                if isinstance(value, datetime):
                    yield f"{table.name}.{column}", value - LATER.get(column, timedelta(0))
                if IDS.get(table.name) == column:
                    made = int(str(value).partition("_")[2][:16], 16)
                    yield f"{table.name}.{column}", datetime.fromtimestamp(made / 1e9, UTC)


@pytest.mark.parametrize("seconds", [-3600, -60, 60, 3600])
def test_a_machine_with_a_wrong_clock_writes_the_databases_times(seconds: int, world: World, archive: Path) -> None:
    slack = timedelta(milliseconds=1)  # ids have it as a float here
    before = clock(world.session) - slack
    settings = world.settings.model_dump_json()
    command = [sys.executable, "-m", "tests.reliability.wrong_clock", str(seconds), settings]
    command += [str(archive), str(world.kept.out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    world.session.rollback()
    after = clock(world.session) + slack
    cancelled, succeeded = json.loads(done.stdout)
    assert [world.session.get_one(Job, job).state for job in (cancelled, succeeded)] == ["cancelled", "succeeded"]
    found = list(times(world))
    assert {name for name, _ in found} >= {
        *("models.created_at", "jobs.created_at", "jobs.started_at", "jobs.finished_at", "jobs.id", "job_events.at"),
        *("workers.seen_at", "turns.served_at", "attempts.started_at", "artifacts.created_at"),
        "checkpoints.created_at",
    }
    assert [(name, str(at)) for name, at in found if not before <= at <= after] == []
    for job in (cancelled, succeeded):
        at = [event.at for event in queries.events(world.session, job, 0, 100)]
        assert at == sorted(at)
    assert workers.live_devices(world.session) == {"cpu"}
