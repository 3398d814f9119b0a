"""A job or sweep whose worker is killed goes on where it was, through the whole service."""

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

SAMPLES = 4_000
ONE_BY_ONE = {"samples": SAMPLES, "batch_size": 1}
MSE = {"activations": {"observer": {"kind": "mse"}}, "calibration": ONE_BY_ONE}
WORK: Mapping[str, Mapping[str, Any]] = {
    "jobs": {"recipe": {"calibration": ONE_BY_ONE}},
    "sweeps": {"recipes": [{"recipe": {"calibration": ONE_BY_ONE}}, {"recipe": MSE}]},
}
RESULT = {"jobs": "report", "sweeps": "artifacts/sweep.json"}
SHORT = {"ZEROPOINT_LEASE_SECONDS": "6", "ZEROPOINT_RECONCILE_SECONDS": "0.5", "ZEROPOINT_CHECKPOINT_SECONDS": "0.2"}


@pytest.mark.sampled(2)
@pytest.mark.parametrize("kind", WORK)
def test_work_whose_worker_is_killed_goes_on_from_its_checkpoint_and_is_recorded_once(
    tmp_path: Path, environment: Mapping[str, str], program: Path, kind: str
) -> None:
    samples = convolutional(SAMPLES + 50).save_dataset(tmp_path / "samples.safetensors")
    with service(tmp_path / "data", {**environment, **SHORT}) as running:
        work_id = running.submit_work(kind, program, samples, WORK[kind])
        before = running.far_in_phase(work_id, "calibrating", SAMPLES // 6)
        os.kill(parent(running.child(work_id)), signal.SIGKILL)
        work = running.ended(work_id)
        attempts = running.client.get(work["links"]["attempts"]).json()["items"]
        artifacts = running.client.get(work["links"]["artifacts"]).json()
        result = running.client.get(f"/v1/jobs/{work_id}/{RESULT[kind]}").json()
        left = [
            command_line(pid)
            for pid in descendants(running.process.pid)
            if is_leader(pid) and work_id in command_line(pid)
        ]
    assert before["progress"]["done"] >= SAMPLES // 6
    assert (work["state"], work["attempts"]) == ("succeeded", 2)
    assert [attempt["outcome"] for attempt in attempts] == ["worker_lost", "succeeded"]
    assert "calibrating" in result["resumed"]
    assert result["calibration"]["samples"] == SAMPLES
    assert kind == "jobs" or len(work["rows"]) == 2
    assert len({artifact["name"] for artifact in artifacts}) == len(artifacts) > 0
    assert left == []
