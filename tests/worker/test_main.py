"""The worker as a program: it tests its sandbox before it takes a job."""

import os
import subprocess

from app.cli.commands import with_root, worker_command
from tests.servers import ROOT


def test_a_worker_without_a_required_layer_does_not_start() -> None:
    environment = with_root(os.environ | {"ZEROPOINT_SANDBOX_REQUIRE": "landlock,moat"})
    done = subprocess.run(
        worker_command("cpu", 1), cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 1
    assert "its sandbox lacks moat (rlimits on" in done.stderr
    assert "ready" not in done.stderr
