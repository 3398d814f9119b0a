"""`zeropoint serve` as a process: it ends when told to, or when a part of it ends, and leaves nothing running."""

import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.servers import ROOT
from tests.service.processes import command_line, descendants, eventually, is_running
from tests.service.running import Running, service
from tests.service.test_jobs import ONE_BY_ONE

pytestmark = [pytest.mark.service, pytest.mark.own_service]


def leaves_nothing(running: Running, told: signal.Signals) -> None:
    """Stop it, with Ctrl-C or as a system does: it succeeds, and none of its processes is left."""
    processes = descendants(running.process.pid)
    running.process.send_signal(told)
    assert running.process.wait(30) == 0
    assert [pid for pid in processes if is_running(pid)] == []


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)  # all other services are on SQLite
def test_it_stops_when_told_to_and_the_next_one_goes_on_with_a_running_job_and_does_one_that_waited(
    *,
    database_url: str,
    tmp_path: Path,
    environment: Mapping[str, str],
    program: Path,
    few_samples: Path,
    many_samples: Path,
) -> None:
    on_postgresql = {**environment, "ZEROPOINT_DATABASE_URL": database_url}
    with service(tmp_path, on_postgresql) as running:
        job_id = running.submit(program, many_samples, ONE_BY_ONE)
        running.in_phase(job_id, "calibrating")
        waiting = running.submit(program, few_samples, {})
        leaves_nothing(running, signal.SIGINT)
    with service(tmp_path, on_postgresql) as again:  # with an empty Redis
        again.in_phase(job_id, "calibrating")
        assert again.job(job_id)["attempts"] == 1
        outcomes = [one["outcome"] for one in again.client.get(f"/v1/jobs/{job_id}/attempts").json()["items"]]
        again.client.post(f"/v1/jobs/{job_id}/cancel")
        assert outcomes == ["released", None]
        assert again.ended(waiting)["state"] == "succeeded"
        leaves_nothing(again, signal.SIGTERM)


def test_one_that_is_killed_takes_its_parts_with_it_and_the_next_goes_on(
    tmp_path: Path, environment: Mapping[str, str], program: Path, many_samples: Path
) -> None:
    with service(tmp_path, environment) as running:
        open_to_others = [path for path in (tmp_path, *tmp_path.rglob("*")) if path.lstat().st_mode & 0o077]
        assert [path for path in open_to_others if not path.is_socket()] == []
        job_id = running.submit(program, many_samples, ONE_BY_ONE)
        running.in_phase(job_id, "calibrating")
        processes = descendants(running.process.pid)
        running.process.kill()
        eventually(lambda: not [pid for pid in processes if is_running(pid)], seconds=20)
    with service(tmp_path, environment) as again:
        address = f"/v1/jobs/{job_id}/attempts"
        attempts = eventually(lambda: found if len(found := again.client.get(address).json()["items"]) > 1 else None)
        began = time.monotonic()
        for _ in range(3):  # impatience
            again.process.send_signal(signal.SIGINT)
            time.sleep(0.3)
        assert again.process.wait(30) == 0
        assert time.monotonic() - began < 15
    assert [attempt["outcome"] for attempt in attempts] == ["released", None]  # by the pool process, at once


def test_the_next_one_waits_for_parts_of_a_former_one_and_then_says_what_is_in_its_way(
    tmp_path: Path, environment: Mapping[str, str]
) -> None:
    command = [sys.executable, "-m", "app.cli", "serve", "--port", "1", "--data", str(tmp_path)]
    with (tmp_path / "parts.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        done = subprocess.run(command, cwd=ROOT, env=dict(environment), capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "that was killed still use" in done.stderr


@pytest.mark.sampled(3)
@pytest.mark.parametrize("part", ["redis-server", "app.api.server", "-m worker"])
def test_it_stops_altogether_when_a_part_dies(part: str, tmp_path: Path, environment: Mapping[str, str]) -> None:
    with service(tmp_path, environment) as running:
        processes = descendants(running.process.pid)
        os.kill(next(pid for pid in processes if part in command_line(pid)), signal.SIGKILL)
        assert running.process.wait(30) == 1
        eventually(lambda: not [pid for pid in processes if is_running(pid)])
