"""Processes that find no usable bucket: what waiting does not mend ends them, with the reason."""

import os
import subprocess
import sys
from collections.abc import Mapping

import pytest

from app.settings import Settings
from app.storage.s3 import errors
from tests.reliability.running_worker import environment_of
from tests.servers import ROOT, free_port

COMMANDS: Mapping[str, list[str]] = {
    "api": ["app.api.server", "--port", "0"],
    "worker": ["worker", "--pool", "prefork", "--concurrency", "1", "--queues", "cpu"],
}


@pytest.mark.sampled(2)
@pytest.mark.parametrize(("database_url", "stored_in"), [("sqlite", "s3")], indirect=True)
@pytest.mark.parametrize("command", COMMANDS)
def test_a_process_does_not_start_without_its_bucket(command: str, settings: Settings) -> None:
    environment = environment_of(settings, storage_url="s3://missing/team", sandbox_require="")
    ended = subprocess.run(
        [sys.executable, "-m", *COMMANDS[command]],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode != 0
    assert errors.NO_BUCKET in ended.stderr


def test_a_process_without_the_extra_says_what_to_install(tmp_path: object) -> None:
    """As an image has it that was made without."""
    program = "import sys; sys.modules['boto3'] = None; from app.api.server import main; sys.argv[1:] = []; main()"
    environment = {**os.environ, "ZEROPOINT_STORAGE_URL": "s3://models", "ZEROPOINT_SCRATCH_DIR": str(tmp_path)}
    environment["ZEROPOINT_BROKER_URL"] = f"redis://127.0.0.1:{free_port()}/0"
    command = [sys.executable, "-c", program]
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode != 0
    assert "pip install 'zeropoint[s3]'" in ended.stderr
