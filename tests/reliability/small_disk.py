"""A worker on a full disk: `python -m tests.reliability.small_disk ORDER`, in a mount namespace of its own.

It puts a small file system over one folder, fills it, looks for a job several times, makes room, and looks once more.
What the rows say after each look goes to standard output, a line of JSON for each.
"""

import json
import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.database import begin_writing, clock, connected
from app.jobs import queries
from app.jobs.models import Job
from app.settings import Settings
from app.storage import open_storage
from app.storage.local import folder_of
from tests.reliability.stand_in import StandIns
from worker.tasks import look

SIZE = "32m"


def main(order: dict[str, str]) -> None:
    settings = Settings.model_validate_json(order["settings"])
    small = Path(order["small"])
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "small", str(small)], check=True)
    open_storage(settings).put_file(Path(order["blob"]))
    prestarted = StandIns(settings.scratch_dir, Path(order["out"]))
    with connected(settings) as sessions, sessions() as session:
        filler = fill(small)
        for number in range(int(order["looks"])):
            if number:
                end_the_pause(session)
            look("worker", settings, prestarted)
            tell(session, settings)
        filler.unlink()
        end_the_pause(session)
        look("worker", settings, prestarted)
        tell(session, settings)


def fill(folder: Path) -> Path:
    """Leave no byte and a few names."""
    path = folder / "filler"
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            return path


def end_the_pause(session: Session) -> None:
    begin_writing(session)
    job = session.scalars(select(Job)).one()
    assert job.state in ("failed", "succeeded") or job.not_before is None or job.not_before > clock(session)
    job.not_before = job.not_before and job.not_before - timedelta(hours=1)
    session.commit()


def tell(session: Session, settings: Settings) -> None:
    session.rollback()
    job = session.scalars(select(Job).execution_options(populate_existing=True)).one()
    said = {
        "state": job.state,
        "pauses": job.not_before is not None,
        "error": job.error and job.error["code"],
        "outcomes": [attempt.outcome for attempt in queries.attempts(session, job.id)],
        "artifacts": sorted(artifact.name for artifact in queries.artifacts(session, job.id)),
        "in_tmp": os.listdir(folder_of(settings.storage_url) / "tmp"),
    }
    sys.stdout.write(json.dumps(said) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
