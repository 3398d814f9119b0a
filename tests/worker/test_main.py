"""The worker as a program: it tests its sandbox before it takes a job."""

import os
import signal
import subprocess
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import pytest

from app.cli.commands import with_root, worker_command
from tests.servers import ROOT
from tests.service.processes import command_line, descendants


def ended(settings: Mapping[str, str], seconds: float = 300) -> "subprocess.CompletedProcess[str]":
    """A worker that ends by itself."""
    return subprocess.run(
        worker_command("cpu", 1),
        cwd=ROOT,
        env=with_root({**os.environ, **settings}),
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )


FAULTS = {
    "a probe that is killed": ({}, "its sandbox could not be tested. The probe ended with -9"),
    "a scratch folder that can't be made": ({"ZEROPOINT_SCRATCH_DIR": "/proc/no"}, "FileNotFoundError"),
    "a storage that can't be made": ({"ZEROPOINT_STORAGE_URL": "file:/proc/no"}, "FileNotFoundError"),
    "a storage of no kind": ({"ZEROPOINT_STORAGE_URL": "nfs:/there"}, "must be file:"),
    "a setting that is no number": ({"ZEROPOINT_WORKER_SLOTS": "secret"}, "ZEROPOINT_WORKER_SLOTS"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_worker_that_lacks_what_it_needs_ends_with_the_reason(fault: str, tmp_path: Path) -> None:
    wrong, reason = FAULTS[fault]
    settings = {
        "ZEROPOINT_DATABASE_URL": f"sqlite:///{tmp_path}/zeropoint.db",
        "ZEROPOINT_STORAGE_URL": f"file:{tmp_path}/storage",
        "ZEROPOINT_SCRATCH_DIR": str(tmp_path / "scratch"),
        **wrong,
    }
    over = threading.Event()

    def kill_probes() -> None:
        while not wrong and not over.wait(0.01):
            for pid in descendants(os.getpid()):
                with suppress(FileNotFoundError, ProcessLookupError):
                    if "sandbox.child probe" in command_line(pid):
                        os.kill(pid, signal.SIGKILL)

    killer = threading.Thread(target=kill_probes)
    killer.start()
    done = ended(settings)
    over.set()
    killer.join()
    assert done.returncode not in {0, None}
    assert reason in done.stderr
    assert "secret" not in done.stderr
    assert "Connected to" not in done.stderr  # it takes no hint
    assert not (tmp_path / "zeropoint.db").exists()  # and has announced nothing


def test_a_worker_without_a_required_layer_does_not_start() -> None:
    done = ended({"ZEROPOINT_SANDBOX_REQUIRE": "landlock,moat"})
    assert done.returncode == 1
    assert "its sandbox lacks moat (rlimits on" in done.stderr
    assert "ready" not in done.stderr
