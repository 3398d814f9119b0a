"""A service that was started as a user starts it."""

import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from tests.servers import ROOT, free_port
from tests.service.processes import PATIENCE_SECONDS, descendants, eventually, is_leader, working_folder

REQUEST_SECONDS = 120.0
"""For one answer: a machine that others share is slow, and only one that never answers is wrong."""
TERMINAL = ("succeeded", "failed", "cancelled")


@dataclass(frozen=True)
class Running:
    """`zeropoint serve` in a folder."""

    process: subprocess.Popen[bytes]
    data: Path
    client: httpx.Client
    metrics_port: int | None = None
    """The API's; the worker has the next one."""

    def upload(self, kind: str, path: Path) -> str:
        answer = self.client.post(f"/v1/{kind}?name={path.stem}", content=path.read_bytes())
        assert answer.status_code == 201, answer.text
        identity: str = answer.json()["id"]
        return identity

    def submit(self, program: Path, samples: Path, recipe: Mapping[str, Any]) -> str:
        return self.submit_work("jobs", program, samples, {"recipe": recipe})

    def submit_work(self, kind: str, program: Path, samples: Path, wishes: Mapping[str, Any]) -> str:
        """Upload both and submit one of "jobs" or "sweeps"."""
        model, dataset = self.upload("models", program), self.upload("datasets", samples)
        answer = self.client.post(f"/v1/{kind}", json={"model": model, "dataset": dataset, **wishes})
        assert answer.status_code == 202, answer.text
        identity: str = answer.json()["id"]
        return identity

    def job(self, job_id: str) -> dict[str, Any]:
        kind = "sweeps" if job_id.startswith("swp") else "jobs"
        answer: dict[str, Any] = self.client.get(f"/v1/{kind}/{job_id}").raise_for_status().json()
        return answer

    def ended(self, job_id: str, seconds: float = PATIENCE_SECONDS) -> dict[str, Any]:
        """The job, when it has ended."""
        return eventually(lambda: found if (found := self.job(job_id))["state"] in TERMINAL else None, seconds)

    def in_phase(self, job_id: str, phase: str) -> dict[str, Any]:
        """The job, when it is seen in a phase."""
        return self.far_in_phase(job_id, phase, 1)

    def far_in_phase(self, job_id: str, phase: str, done: int) -> dict[str, Any]:
        """The job, when it is seen to have done so much of a phase."""

        def look() -> dict[str, Any] | None:
            job = self.job(job_id)
            assert job["state"] not in TERMINAL, job
            return job if job["phase"] == phase and job["progress"]["done"] >= done else None

        return eventually(look)

    def child(self, job_id: str) -> int:
        """The process id of a job's child program."""
        (pid,) = [pid for pid in descendants(self.process.pid) if is_leader(pid) and job_id in working_folder(pid)]
        return pid


@contextmanager
def service(
    data: Path,
    environment: Mapping[str, str],
    *,
    command: Sequence[str] = (sys.executable, "-m", "app.cli"),
    folder: Path = ROOT,
) -> Iterator[Running]:
    """Start it in `folder`, wait until it is ready, and stop it afterwards."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # As for what a shell runs in the background; who is started by it would ignore Ctrl-C too.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    port = free_port()
    words = [*command, "serve", "--port", str(port), "--data", str(data)]
    process = subprocess.Popen(
        words, cwd=folder, env=dict(environment), stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    try:
        assert process.stdout is not None
        said = b""
        while b"is ready" not in said:
            line = process.stdout.readline()
            assert line, said.decode()
            said += line
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=REQUEST_SECONDS, trust_env=False) as client:
            metrics_port = environment.get("ZEROPOINT_METRICS_PORT")
            yield Running(process, data, client, int(metrics_port) if metrics_port else None)
    finally:
        process.terminate()
        process.communicate()
