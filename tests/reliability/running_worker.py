"""A real worker with one slot, in a process of its own."""

import os
import signal
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from sqlalchemy.orm import Session

from app.cli.commands import with_root, worker_command
from app.jobs import service
from app.jobs.submission import Submission
from app.jobs.work import QuantizeWork
from app.settings import Settings
from app.storage import Storage
from tests.factories import MOST, add_dataset, add_model
from tests.networks import convolutional
from tests.servers import ROOT
from tests.service.processes import descendants
from zeropoint.schema.recipe import CalibrationSettings, Recipe


def environment_of(settings: Settings, **changed: object) -> dict[str, str]:
    """The environment that makes a process have these settings."""
    ours = settings.model_dump(mode="json") | changed
    return {**os.environ, **{f"ZEROPOINT_{name.upper()}": str(value) for name, value in ours.items()}}


def calibrating_job(session: Session, storage: Storage, folder: Path, samples: int) -> str:
    """Queue a job that calibrates for some seconds, sample by sample; return its id."""
    example = convolutional(samples)
    model = add_model(session, storage, example.export(folder / "model.pt2"))
    dataset = add_dataset(session, storage, example.save_dataset(folder / "samples.safetensors").read_bytes())
    work = QuantizeWork(Recipe(calibration=CalibrationSettings(samples=samples, batch_size=1)))
    return service.submit(session, Submission(model.id, work, dataset.id), MOST).id


def signal_all(pids: Iterable[int], number: signal.Signals) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


@contextmanager
def worker(name: str, environment: Mapping[str, str], log: Path) -> Iterator[int]:
    """Run it under a name; yield its process id."""
    command = [*worker_command("cpu", 1), "--hostname", name]
    with log.open("wb") as output:
        # Apart from the tests' own group: stopping a part of that one is a hang-up for the rest of it.
        process = subprocess.Popen(
            command, cwd=ROOT, env=with_root(dict(environment)), stdout=output, stderr=output, start_new_session=True
        )
    try:
        yield process.pid
    finally:
        signal_all(descendants(process.pid), signal.SIGCONT)
        process.terminate()
        process.wait(60)
