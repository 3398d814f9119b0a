"""An MLflow server on loopback, in a process of its own, and what it has heard."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
from mlflow import MlflowClient
from mlflow.entities import Run, ViewType

from tests.servers import free_port, wait_until

QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
}


@dataclass(frozen=True)
class MlflowServer:
    """A running server."""

    address: str
    process: subprocess.Popen[bytes]

    @property
    def client(self) -> MlflowClient:
        return MlflowClient(self.address)

    def signal(self, number: signal.Signals) -> None:
        """Stop it, as a machine that hangs, or let it go on."""
        os.killpg(self.process.pid, number)

    def runs(self, job_id: str) -> list[Run]:
        """Return the runs of a job that are not deleted."""
        wanted = f"tags.`zeropoint.job_id` = '{job_id}'"
        experiments = [one.experiment_id for one in self.client.search_experiments(ViewType.ACTIVE_ONLY)]
        return list(self.client.search_runs(experiments, wanted))

    def run(self, job_id: str) -> Run:
        """Return the one run of a job."""
        (run,) = self.runs(job_id)
        return run

    def files(self, run: Run) -> list[str]:
        return sorted(file.path for file in self.client.list_artifacts(run.info.run_id))

    def text(self, run: Run, name: str, folder: Path) -> str:
        return Path(self.client.download_artifacts(run.info.run_id, name, str(folder))).read_text()


@contextmanager
def mlflow_server(folder: Path) -> Iterator[MlflowServer]:
    """Run `mlflow server` on SQLite; artifacts go through it."""
    port = free_port()
    options = {
        "host": "127.0.0.1",
        "port": str(port),
        "workers": "1",
        "backend-store-uri": f"sqlite:///{folder}/mlflow.db",
        "artifacts-destination": str(folder / "artifacts"),
    }
    command = [sys.executable, "-m", "mlflow", "server"]
    command += [word for name, value in options.items() for word in (f"--{name}", value)]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            command, cwd=folder, env=os.environ | QUIET, stdout=log, stderr=log, start_new_session=True
        )
    address = f"http://127.0.0.1:{port}"

    def answers() -> bool:
        assert process.poll() is None, (folder / "log").read_text()
        with suppress(httpx.HTTPError):
            return httpx.get(f"{address}/health", trust_env=False).is_success
        return False

    try:
        wait_until(answers, 300)
        yield MlflowServer(address, process)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(60)
