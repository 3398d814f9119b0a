"""A second `zeropoint serve` beside a running one is refused, and says why."""

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.servers import ROOT
from tests.service.running import Running

pytestmark = pytest.mark.service


def another(port: int | None, data: Path, environment: Mapping[str, str]) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "app.cli", "serve", "--port", str(port), "--data", str(data)]
    return subprocess.run(command, cwd=ROOT, env=dict(environment), check=False, capture_output=True, text=True)


def test_a_second_one_in_the_same_folder_is_refused(running: Running, environment: Mapping[str, str]) -> None:
    second = another(1, running.data, environment)
    assert second.returncode == 1
    assert "Another zeropoint serve" in second.stderr


def test_a_port_that_is_taken_is_an_error_before_anything_starts(
    running: Running, tmp_path: Path, environment: Mapping[str, str]
) -> None:
    second = another(running.client.base_url.port, tmp_path, environment)
    assert second.returncode == 1
    assert "already in use" in second.stderr
    assert "--port" in second.stderr
    assert "is ready" not in second.stdout
