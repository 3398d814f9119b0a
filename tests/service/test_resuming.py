"""A job whose worker is killed goes on where it was, through the whole service."""

import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.networks import convolutional
from tests.service.processes import command_line, descendants, is_leader, parent
from tests.service.running import service

pytestmark = [pytest.mark.service, pytest.mark.slow]

SAMPLES = 8_000
SHORT = {"ZEROPOINT_LEASE_SECONDS": "6", "ZEROPOINT_RECONCILE_SECONDS": "0.5", "ZEROPOINT_CHECKPOINT_SECONDS": "0.2"}
RECIPE: dict[str, Any] = {"calibration": {"samples": SAMPLES, "batch_size": 1}}


def test_a_job_whose_worker_is_killed_goes_on_from_its_checkpoint(
    tmp_path: Path, environment: Mapping[str, str], program: Path
) -> None:
    samples = convolutional(SAMPLES + 50).save_dataset(tmp_path / "samples.safetensors")
    with service(tmp_path / "data", {**environment, **SHORT}) as running:
        job_id = running.submit(program, samples, RECIPE)
        before = running.far_in_phase(job_id, "calibrating", SAMPLES // 6)
        os.kill(parent(running.child(job_id)), signal.SIGKILL)
        job = running.ended(job_id)
        attempts = running.client.get(f"/v1/jobs/{job_id}/attempts").json()["items"]
        report = running.client.get(f"/v1/jobs/{job_id}/report").json()
        left = [
            command_line(pid)
            for pid in descendants(running.process.pid)
            if is_leader(pid) and job_id in command_line(pid)
        ]
    assert before["progress"]["done"] >= SAMPLES // 6
    assert (job["state"], job["attempts"]) == ("succeeded", 2)
    assert [attempt["outcome"] for attempt in attempts] == ["worker_lost", "succeeded"]
    assert report["resumed"] == ["calibrating"]
    assert report["calibration"]["samples"] == SAMPLES
    assert left == []
