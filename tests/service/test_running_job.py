"""A job seen while it runs, from outside: its progress, its processes and what holds them."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.service.processes import command_line, descendants, eventually, has_loaded
from tests.service.running import Running
from tests.service.test_jobs import ONE_BY_ONE

pytestmark = pytest.mark.service


@pytest.fixture(scope="module")
def calibrating(running: Running, program: Path, many_samples: Path) -> Iterator[str]:
    """The id of a job that calibrates for as long as these tests take."""
    job_id = running.submit(program, many_samples, ONE_BY_ONE)
    running.in_phase(job_id, "calibrating")
    yield job_id
    running.client.post(f"/v1/jobs/{job_id}/cancel")
    running.ended(job_id)


def test_progress_is_seen_while_the_job_runs(running: Running, calibrating: str) -> None:
    early = running.in_phase(calibrating, "calibrating")["progress"]
    later = eventually(lambda: seen if (seen := running.job(calibrating)["progress"])["done"] > early["done"] else None)
    assert later["total"] > later["done"]
    assert later["fraction"] == pytest.approx(later["done"] / later["total"])
    assert later["eta_seconds"] > 0


def test_a_running_job_and_its_second_process_are_locked_down(running: Running, calibrating: str) -> None:
    leader = running.child(calibrating)
    first, second = descendants(leader)

    def status(pid: int) -> dict[str, str]:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}

    outside = int(status(running.process.pid)["Seccomp_filters"])
    for pid in (first, second):
        eventually(lambda pid=pid: int(status(pid)["Seccomp_filters"]) == outside + 2)  # type: ignore[misc]
        assert (status(pid)["NoNewPrivs"], int(status(pid)["CapEff"], 16)) == ("1", 0)


def test_only_the_child_and_its_template_load_torch(running: Running, calibrating: str) -> None:
    child = running.child(calibrating)
    service = set(descendants(running.process.pid)) - set(descendants(child))
    with_torch = {pid for pid in service if has_loaded(pid, "libtorch")}
    assert has_loaded(child, "libtorch")
    assert len(service) >= 5  # serve, Redis, API, worker and its pool
    assert ["sandbox.template" in command_line(pid) for pid in with_torch] == [True]
