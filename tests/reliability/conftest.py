"""What crashes are made of: the driver, an upload that has passed the gate, and what a real job left."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.orm import Session, sessionmaker

from app.catalog.models import Model
from app.database import connected, migrate
from app.jobs import queries, service
from app.jobs.models import Job
from app.jobs.submission import Submission
from app.jobs.work import QuantizeWork
from app.settings import Settings
from app.storage import Storage, open_storage
from sandbox.policy import Sandbox
from tests.factories import MOST, add_model, content_of
from tests.networks import convolutional
from tests.reliability.driving import Driver
from tests.reliability.world import Kept, World
from tests.s3 import CREDENTIALS
from tests.servers import ROOT
from worker.child.prestarted import PrestartedChildren
from worker.tasks import look
from zeropoint.schema.recipe import Recipe


@pytest.fixture(scope="session")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return convolutional().export(tmp_path_factory.mktemp("archive") / "model.pt2")


@pytest.fixture(scope="session")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Driver]:
    command = [sys.executable, "-m", "tests.reliability.driver", str(tmp_path_factory.mktemp("driver"))]
    environment = {**os.environ, **CREDENTIALS}
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with process:
        yield Driver(process)
        assert process.stdin is not None
        process.stdin.close()


@pytest.fixture(scope="session")
def kept(tmp_path_factory: pytest.TempPathFactory, archive: Path) -> Kept:
    """One upload through the gate and one job through its real program, for every test to start from."""
    folder = tmp_path_factory.mktemp("kept")
    settings = Settings(
        database_url=f"sqlite:///{folder}/zeropoint.db",
        storage_url=f"file:{folder}/storage",
        scratch_dir=folder / "scratch",
    )
    migrate(settings)
    storage = open_storage(settings)
    with connected(settings) as sessions, sessions() as session:
        model = add_model(session, storage, archive)
        work = QuantizeWork(Recipe(activations=None, formats=("safetensors",)))
        job = service.submit(session, Submission(model.id, work), MOST)
        prestarted = PrestartedChildren(settings.scratch_dir, Sandbox())
        look("first", settings, prestarted)
        out = _collect(session, storage, job, folder / "out")
        row: dict[str, Any] = {column.name: getattr(model, column.name) for column in Model.__table__.columns}
        blob = folder / "blob"
        blob.write_bytes(content_of(storage, model.stored_sha256))
        return Kept(row, blob, out)


def _collect(session: Session, storage: Storage, job: Job, out: Path) -> Path:
    out.mkdir()
    for artifact in queries.artifacts(session, job.id):
        if artifact.kind != "manifest":
            (out / artifact.name).write_bytes(content_of(storage, artifact.sha256))
    assert {path.name for path in out.iterdir()} == {"model.safetensors", "report.json"}
    return out


@pytest.fixture
def world(settings: Settings, sessions: sessionmaker[Session], storage: Storage, kept: Kept) -> Iterator[World]:
    with sessions() as session:
        yield World(settings, sessions, session, storage, kept)
