"""A process that loads torch can't fork safely and takes hundreds of megabytes: the API never does."""

import subprocess
import sys

import pytest

from tests.servers import ROOT

HEAVY = {"torch", "safetensors", "numpy"}


@pytest.mark.parametrize("module", ["app.main", "app.jobs.service", "app.jobs.queue", "app.cli"])
def test_importing_the_service_loads_no_torch(module: str) -> None:
    program = f"import {module}, sys; print(*sys.modules)"
    printed = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not HEAVY & set(printed.stdout.split())
