"""No room for what a finished job left, or for what it needs: it waits, tries again, and nothing half is visible."""

import json
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from app.jobs.endings import MAX_ATTEMPTS
from tests.factories import safetensors
from tests.reliability.stand_in import SCRIPT, StandIns
from tests.reliability.world import ARTIFACTS, World
from tests.servers import ROOT
from worker.tasks import look

# What is recorded is the database's matter, and tested there on both.
pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

APART = ["unshare", "--user", "--map-root-user", "--mount"]
LIMIT_BYTES = 1 << 20


@pytest.fixture(scope="session")
def may_mount() -> None:
    command = [*APART, "mount", "-t", "tmpfs", "probe", "/mnt"]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("this system lets nobody mount: a limit for each file stands for a full disk, in the test below")


@pytest.fixture
def job_id(world: World) -> str:
    return world.add_job(world.add_model())


def on_small_disk(world: World, small: Path, looks: int) -> list[dict[str, Any]]:
    """What the job was like after each look with a full disk, and after one with room."""
    small.mkdir(parents=True, exist_ok=True)
    order = {
        "settings": world.settings.model_dump_json(),
        "small": str(small),
        "blob": str(world.kept.blob),
        "out": str(world.kept.out),
        "looks": str(looks),
    }
    command = [*APART, sys.executable, "-m", "tests.reliability.small_disk", json.dumps(order)]
    said = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout
    return [json.loads(line) for line in said.splitlines()]


@pytest.mark.usefixtures("may_mount")
@pytest.mark.parametrize("folder", ["storage", "scratch"])
def test_a_job_waits_for_room_and_is_done_when_there_is_some(
    folder: str, world: World, job_id: str, tmp_path: Path
) -> None:
    full, roomy = on_small_disk(world, tmp_path / folder, looks=1)
    assert full == {
        "state": "queued",
        "pauses": True,
        "error": None,
        "outcomes": ["storage_full"],
        "artifacts": [],
        "in_tmp": [],
    }
    assert (roomy["state"], roomy["outcomes"]) == ("succeeded", ["storage_full", "succeeded"])
    assert roomy["artifacts"] == ARTIFACTS


@pytest.mark.usefixtures("may_mount")
def test_a_disk_that_stays_full_fails_the_job_in_the_end(world: World, job_id: str, tmp_path: Path) -> None:
    *_, last, roomy = on_small_disk(world, tmp_path / "storage", looks=MAX_ATTEMPTS)
    assert last == {
        "state": "failed",
        "pauses": False,
        "error": "storage_full",
        "outcomes": [*["storage_full"] * (MAX_ATTEMPTS - 1), "failed"],
        "artifacts": [],
        "in_tmp": [],
    }
    assert roomy == last


@contextmanager
def no_larger_file() -> Iterator[None]:
    """No file of this process grows over LIMIT_BYTES."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    assert signal.getsignal(signal.SIGXFSZ) is signal.SIG_IGN  # so Python is told, as by a full disk
    resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT_BYTES, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_storage_that_takes_no_file_so_large_is_waited_for(world: World, job_id: str, tmp_path: Path) -> None:
    out = tmp_path / "large"
    shutil.copytree(world.kept.out, out)
    (out / "model.safetensors").write_bytes(safetensors(weight=("U8", [2 * LIMIT_BYTES])))
    prestarted = StandIns(world.settings.scratch_dir, out, f"ulimit -S -f unlimited\n{SCRIPT}")
    with no_larger_file():
        look("worker", world.settings, prestarted)
    (job,) = world.jobs()
    assert (job.state, world.outcomes(job_id)) == ("queued", ["storage_full"])
    assert job.not_before is not None
    assert not list((tmp_path / "storage" / "tmp").iterdir())
    world.restart()
    world.check()
    assert world.outcomes(job_id) == ["storage_full", "succeeded"]
