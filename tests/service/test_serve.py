"""`zeropoint serve` as a process: it ends when told to, or when a part of it ends, and leaves nothing running."""

import os
import signal
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.service.processes import command_line, descendants, eventually, is_running
from tests.service.running import service
from tests.service.test_jobs import ONE_BY_ONE

pytestmark = [pytest.mark.service, pytest.mark.own_service]


def test_it_stops_at_ctrl_c_and_leaves_nothing(tmp_path: Path, environment: Mapping[str, str]) -> None:
    with service(tmp_path, environment) as running:
        processes = descendants(running.process.pid)
        running.process.send_signal(signal.SIGINT)
        assert running.process.wait(30) == 0
        assert [pid for pid in processes if is_running(pid)] == []


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)  # all other services are on SQLite
def test_the_next_one_goes_on_with_a_running_job_and_does_one_that_waited(
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
        processes = descendants(running.process.pid)
        running.process.terminate()
        assert running.process.wait(30) == 0
        assert [pid for pid in processes if is_running(pid)] == []
    with service(tmp_path, on_postgresql) as again:  # with an empty Redis
        again.in_phase(job_id, "calibrating")
        assert again.job(job_id)["attempts"] == 1
        outcomes = [one["outcome"] for one in again.client.get(f"/v1/jobs/{job_id}/attempts").json()["items"]]
        again.client.post(f"/v1/jobs/{job_id}/cancel")
        assert outcomes == ["released", None]
        assert again.ended(waiting)["state"] == "succeeded"


@pytest.mark.sampled(3)
@pytest.mark.parametrize("part", ["redis-server", "app.api.server", "-m worker"])
def test_it_stops_altogether_when_a_part_dies(part: str, tmp_path: Path, environment: Mapping[str, str]) -> None:
    with service(tmp_path, environment) as running:
        processes = descendants(running.process.pid)
        os.kill(next(pid for pid in processes if part in command_line(pid)), signal.SIGKILL)
        assert running.process.wait(30) == 1
        eventually(lambda: not [pid for pid in processes if is_running(pid)])
