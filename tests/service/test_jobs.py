"""Jobs through the whole service: real HTTP, real Redis, real Celery worker, real child program."""

import hashlib
import os
import signal
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.service.processes import eventually, is_running
from tests.service.running import Running

pytestmark = pytest.mark.service

ONE_BY_ONE: dict[str, Any] = {"calibration": {"samples": 100_000, "batch_size": 1}}


@pytest.fixture(scope="module")
def succeeded(running: Running, program: Path, few_samples: Path) -> str:
    """The id of a job that was carried through."""
    job_id = running.submit(program, few_samples, {})
    job = running.ended(job_id)
    assert (job["state"], job["verdict"], job["error"], job["attempts"]) == ("succeeded", "passed", None, 1)
    return job_id


def test_the_artifacts_are_what_the_job_lists(running: Running, succeeded: str) -> None:
    artifacts = {one["name"]: one for one in running.client.get(f"/v1/jobs/{succeeded}/artifacts").json()}
    assert set(artifacts) == {"model.safetensors", "model.pt2", "report.json", "manifest.json"}
    for artifact in artifacts.values():
        content = running.client.get(artifact["url"]).content
        assert hashlib.sha256(content).hexdigest() == artifact["sha256"]


def test_the_manifest_names_the_artifacts_by_their_hashes(running: Running, succeeded: str) -> None:
    artifacts = {one["name"]: one["sha256"] for one in running.client.get(f"/v1/jobs/{succeeded}/artifacts").json()}
    manifest = running.client.get(f"/v1/jobs/{succeeded}/artifacts/manifest.json").json()
    del artifacts["manifest.json"]
    assert {name: output["sha256"] for name, output in manifest["outputs"].items()} == artifacts


def test_the_history_names_every_phase_in_order(running: Running, succeeded: str) -> None:
    events = running.client.get(f"/v1/jobs/{succeeded}/events").json()["items"]
    phases = [event["data"]["phase"] for event in events if event["kind"] == "phase"]
    assert phases == ["loading", "calibrating", "quantizing", "saving", "validating", "publishing"]


def test_nothing_is_left_in_scratch(running: Running, succeeded: str) -> None:
    scratch = running.data / "scratch"
    eventually(lambda: not [path for path in scratch.iterdir() if path.is_dir()])


def test_readiness_says_which_layers_hold(running: Running) -> None:
    layers = running.client.get("/readyz").json()["sandbox"]
    assert {"landlock": True, "seccomp": True, "rlimits": True}.items() <= layers.items()
    metrics = httpx.get(f"http://127.0.0.1:{running.metrics_port}/metrics").text
    assert 'zeropoint_sandbox_layer{layer="landlock"} 1.0' in metrics


def test_cancel_stops_the_child_at_once(running: Running, program: Path, many_samples: Path) -> None:
    job_id = running.submit(program, many_samples, ONE_BY_ONE)
    running.in_phase(job_id, "calibrating")
    child = running.child(job_id)
    assert is_running(child)
    asked = time.monotonic()
    assert running.client.post(f"/v1/jobs/{job_id}/cancel").status_code == 202
    eventually(lambda: not is_running(child))
    assert time.monotonic() - asked < 20  # it would go on for minutes
    assert running.ended(job_id)["state"] == "cancelled"


def test_a_failed_validation_fails_the_job_and_keeps_the_report(
    running: Running, program: Path, few_samples: Path
) -> None:
    job_id = running.submit(program, few_samples, {"validation": {"min_sqnr_db": 300}})
    job = running.ended(job_id)
    assert (job["state"], job["verdict"]) == ("failed", "failed")
    assert (job["error"]["code"], job["error"]["phase"]) == ("validation_failed", "validating")
    assert job["error"]["detail"]
    assert job["error"]["remedy"]
    report = running.client.get(f"/v1/jobs/{job_id}/report").json()
    assert (report["verdict"], report["summary"]["sqnr_db"]) == ("failed", job["sqnr_db"])
    assert job["sqnr_db"] is not None


def test_a_child_that_dies_fails_the_job_and_names_the_phase(
    running: Running, program: Path, many_samples: Path
) -> None:
    job_id = running.submit(program, many_samples, ONE_BY_ONE)
    running.in_phase(job_id, "calibrating")
    os.kill(running.child(job_id), signal.SIGSEGV)
    job = running.ended(job_id)
    assert (job["state"], job["error"]["code"], job["error"]["phase"]) == ("failed", "crashed", "calibrating")
    assert job["error"]["remedy"]
    assert "Traceback" not in str(job)
