"""`zeropoint serve` as a process: it ends when told to, or when a part of it ends, and leaves nothing running."""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.servers import ROOT
from tests.service.processes import command_line, descendants, eventually, is_running
from tests.service.running import Running, service
from tests.service.test_jobs import ONE_BY_ONE

pytestmark = pytest.mark.service


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_it_stops_when_told_to_and_leaves_nothing(
    number: signal.Signals, tmp_path: Path, environment: Mapping[str, str]
) -> None:
    with service(tmp_path, environment) as running:
        processes = descendants(running.process.pid)
        running.process.send_signal(number)
        assert running.process.wait(30) == 0
        assert [pid for pid in processes if is_running(pid)] == []


def test_it_gives_a_running_job_back_and_the_next_one_goes_on_with_it(
    tmp_path: Path, environment: Mapping[str, str], program: Path, many_samples: Path
) -> None:
    with service(tmp_path, environment) as running:
        job_id = running.submit(program, many_samples, ONE_BY_ONE)
        running.in_phase(job_id, "calibrating")
        processes = descendants(running.process.pid)
        running.process.terminate()
        running.process.wait(30)
        assert [pid for pid in processes if is_running(pid)] == []
    with service(tmp_path, environment) as again:
        again.in_phase(job_id, "calibrating")
        assert again.job(job_id)["attempts"] == 1
        outcomes = [one["outcome"] for one in again.client.get(f"/v1/jobs/{job_id}/attempts").json()["items"]]
        again.client.post(f"/v1/jobs/{job_id}/cancel")
    assert outcomes == ["released", None]


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)  # all other jobs are done on SQLite
def test_a_job_is_done_on_postgresql_too(
    database_url: str, tmp_path: Path, environment: Mapping[str, str], program: Path, few_samples: Path
) -> None:
    with service(tmp_path, {**environment, "ZEROPOINT_DATABASE_URL": database_url}) as running:
        assert running.ended(running.submit(program, few_samples, {}))["state"] == "succeeded"


@pytest.mark.parametrize("part", ["redis-server", "uvicorn", "-m worker"])
def test_it_stops_altogether_when_a_part_dies(part: str, tmp_path: Path, environment: Mapping[str, str]) -> None:
    with service(tmp_path, environment) as running:
        processes = descendants(running.process.pid)
        os.kill(next(pid for pid in processes if part in command_line(pid)), signal.SIGKILL)
        assert running.process.wait(30) == 1
        eventually(lambda: not [pid for pid in processes if is_running(pid)])


def another(port: int | None, data: Path, environment: Mapping[str, str]) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "app.cli", "serve", "--port", str(port), "--data", str(data)]
    return subprocess.run(command, cwd=ROOT, env=dict(environment), check=False, capture_output=True, text=True)


def test_a_second_one_in_the_same_folder_is_refused(running: Running, environment: Mapping[str, str]) -> None:
    second = another(1, running.data, environment)
    assert second.returncode == 1
    assert "Another zeropoint serve" in second.stderr


def test_a_port_that_is_taken_is_an_error_with_the_servers_own_words(
    running: Running, tmp_path: Path, environment: Mapping[str, str]
) -> None:
    second = another(running.client.base_url.port, tmp_path, environment)
    assert second.returncode == 1
    assert "already in use" in second.stderr


def test_a_job_that_waited_while_the_service_was_down_is_done_after_the_start(
    tmp_path: Path, environment: Mapping[str, str], program: Path, few_samples: Path, many_samples: Path
) -> None:
    with service(tmp_path, environment) as running:
        blocking = running.submit(program, many_samples, ONE_BY_ONE)
        running.in_phase(blocking, "calibrating")
        waiting = running.submit(program, few_samples, {})
    with service(tmp_path, environment) as again:  # with an empty Redis
        again.client.post(f"/v1/jobs/{blocking}/cancel")
        assert again.ended(waiting)["state"] == "succeeded"
