"""A service at rest in a database and two folders: what is in it, how it starts again, and what must hold in it."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker

from app.catalog.models import Model
from app.database import begin_writing, clock, new_id
from app.jobs import queries, reconciler, service
from app.jobs.models import Artifact, Attempt, Checkpoint, Job, JobEvent
from app.jobs.status import TERMINAL
from app.jobs.submission import Submission
from app.jobs.work import QuantizeWork
from app.settings import Settings
from app.storage import SCRATCH_NAME, Storage
from app.storage.local import folder_of
from tests.factories import MOST
from tests.reliability.stand_in import StandIns
from worker.child import scratch
from worker.tasks import look
from zeropoint.schema.recipe import Recipe

ARTIFACTS = ["manifest.json", "model.safetensors", "report.json"]


@dataclass(frozen=True)
class Kept:
    """A model's row and blob, and the folder of what a job on it left."""

    row: dict[str, Any]
    blob: Path
    out: Path


@dataclass(frozen=True)
class World:
    """One of each part."""

    settings: Settings
    sessions: sessionmaker[Session]
    session: Session
    storage: Storage
    kept: Kept

    @property
    def stored(self) -> str:
        """What kind of storage it has."""
        return "folder" if self.settings.storage_url.startswith("file:") else "s3"

    def order(self, operation: str, archive: Path, ids: Mapping[str, str]) -> dict[str, Any]:
        """What the driver needs to know."""
        return {
            "operation": operation,
            "settings": self.settings.model_dump(mode="json"),
            "archive": str(archive),
            "out": str(self.kept.out),
            "ids": dict(ids),
        }

    def make_folders(self) -> None:
        """The first level below blobs/, so that the steps to a blob don't depend on its digest."""
        for number in range(256) if self.stored == "folder" else ():
            (folder_of(self.settings.storage_url) / "blobs" / f"{number:02x}").mkdir(exist_ok=True)

    def add_model(self) -> str:
        """A model that passed the gate before."""
        self.storage.put_file(self.kept.blob)
        model_id = new_id("mdl", clock(self.session))
        model = Model(**self.kept.row | {"id": model_id, "name": model_id})
        begin_writing(self.session)
        self.session.add(model)
        self.session.commit()
        return model.id

    def add_job(self, model_id: str) -> str:
        work = QuantizeWork(Recipe(activations=None, formats=("safetensors",)))
        return service.submit(self.session, Submission(model_id, work), MOST).id

    def restart(self) -> None:
        """Start a worker after the one that died: it finds what is due until nothing is left to do."""
        scratch.remove_stale(self.settings.scratch_dir)
        prestarted = StandIns(self.settings.scratch_dir, self.kept.out)
        while self.let_time_pass():
            reconciler.recover(self.session)
            look("next", self.settings, prestarted)

    def let_time_pass(self) -> bool:
        """Every lease has run out and every pause is over; whether anything is left to do."""
        begin_writing(self.session)
        past = clock(self.session) - timedelta(seconds=1)
        live = self.session.scalars(select(Job).where(Job.state.not_in(TERMINAL))).all()
        for job in live:
            job.lease_until = job.lease_until and past
            job.not_before = None
        self.session.commit()
        return bool(live)

    def jobs(self) -> Sequence[Job]:
        self.session.rollback()
        self.session.expire_all()
        return self.session.scalars(select(Job).order_by(Job.id)).all()

    def models(self) -> Sequence[Model]:
        self.session.rollback()
        return self.session.scalars(select(Model)).all()

    def outcomes(self, job_id: str) -> list[str | None]:
        return [attempt.outcome for attempt in queries.attempts(self.session, job_id)]

    def check(self) -> None:
        """All that must hold once nothing runs, whatever happened before."""
        for job in self.jobs():
            _check_history(job, self.session.scalars(_of(JobEvent, job).order_by(JobEvent.seq)).all())
            _check_attempts(job, queries.attempts(self.session, job.id))
            self._check_artifacts(job)
        for sha256 in self.session.scalars(select(Checkpoint.sha256).union_all(select(Model.stored_sha256))):
            self.read(sha256)
        assert [path.name for path in self._left_in_scratch()] == []

    def read(self, sha256: str) -> bytes:
        """A blob, if it is whole."""
        content = b"".join(self.storage.open(sha256))
        assert hashlib.sha256(content).hexdigest() == sha256
        return content

    def _check_artifacts(self, job: Job) -> None:
        found: dict[str, Artifact] = {row.name: row for row in queries.artifacts(self.session, job.id)}
        contents = {name: self.read(row.sha256) for name, row in found.items()}
        assert {row.attempt for row in found.values()} <= {job.attempts}
        assert sorted(found) == (ARTIFACTS if job.state == "succeeded" else sorted(set(found) & {"report.json"}))
        if manifest := contents.pop("manifest.json", None):
            listed = {name: one["sha256"] for name, one in json.loads(manifest)["outputs"].items()}
            assert listed == {name: found[name].sha256 for name in contents}

    def _left_in_scratch(self) -> list[Path]:
        folder = self.settings.scratch_dir
        found = folder.iterdir() if folder.is_dir() else ()
        return [path for path in found if path.is_dir() and path.name != SCRATCH_NAME]


def _of(kind: Any, job: Job) -> Any:
    return select(kind).where(kind.job_id == job.id)


def _check_history(job: Job, events: Sequence[JobEvent]) -> None:
    """Numbered without a gap; the end is there once, and last."""
    assert [event.seq for event in events] == list(range(1, job.events + 1))
    ends = [event.seq for event in events if event.kind == "state" and event.data["state"] in TERMINAL]
    assert ends == [job.events]
    assert events[-1].data["state"] == job.state
    assert [event.data["state"] for event in events if event.kind == "state"].count("running") == job.token


def _check_attempts(job: Job, attempts: Sequence[Attempt]) -> None:
    """Each that began is there and has ended; a worker that was told to stop used none up."""
    assert [attempt.token for attempt in attempts] == list(range(1, job.token + 1))
    assert all(attempt.outcome and attempt.ended_at for attempt in attempts)
    assert job.attempts == sum(attempt.outcome != "released" for attempt in attempts)
    if attempts and job.state != "cancelled":
        assert attempts[-1].outcome in (job.state, "worker_lost")
