"""A sweep through the whole service, over HTTP."""

import os
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.networks import convolutional
from tests.service.processes import eventually, parent
from tests.service.running import TERMINAL, Running, service

pytestmark = pytest.mark.service

SAMPLES = 8_000
ONE_BY_ONE = {"samples": SAMPLES, "batch_size": 1}
SHORT = {"ZEROPOINT_LEASE_SECONDS": "6", "ZEROPOINT_RECONCILE_SECONDS": "0.5", "ZEROPOINT_CHECKPOINT_SECONDS": "0.2"}


def submitted(running: Running, program: Path, samples: Path, recipes: Sequence[Mapping[str, Any]]) -> str:
    model, dataset = running.upload("models", program), running.upload("datasets", samples)
    answer = running.client.post("/v1/sweeps", json={"model": model, "dataset": dataset, "recipes": recipes})
    assert answer.status_code == 202, answer.text
    identity: str = answer.json()["id"]
    return identity


def read(running: Running, sweep_id: str) -> dict[str, Any]:
    answer: dict[str, Any] = running.client.get(f"/v1/sweeps/{sweep_id}").raise_for_status().json()
    return answer


def ended(running: Running, sweep_id: str) -> dict[str, Any]:
    return eventually(lambda: found if (found := read(running, sweep_id))["state"] in TERMINAL else None)


def test_a_sweep_gives_a_table(running: Running, program: Path, few_samples: Path) -> None:
    recipes: list[Mapping[str, Any]] = [
        {"preset": "int8-static"},
        {"preset": "int8-weight-only"},
        {"recipe": {"weights": {"dtype": "int4"}}},
    ]
    sweep = ended(running, submitted(running, program, few_samples, recipes))
    assert (sweep["state"], sweep["error"]) == ("succeeded", None)
    static, weight_only, int4 = sweep["rows"]
    assert [row["name"] for row in sweep["rows"]] == ["int8-static", "int8-weight-only", "recipe 2"]
    assert 20 < static["sqnr_db"] < weight_only["sqnr_db"]
    assert (int4["error"]["code"], int4["bytes"]) == ("nothing_to_quantize", None)
    assert set(sweep["pareto"]) <= {0, 1}
    artifacts = running.client.get(sweep["links"]["artifacts"]).json()
    assert [artifact["name"] for artifact in artifacts] == ["manifest.json", "sweep.json"]
    assert running.client.get(artifacts[1]["url"]).json()["rows"] == sweep["rows"]


@pytest.mark.slow
def test_a_sweep_whose_worker_is_killed_goes_on_and_is_recorded_once(
    tmp_path: Path, environment: Mapping[str, str], program: Path
) -> None:
    samples = convolutional(SAMPLES + 50).save_dataset(tmp_path / "samples.safetensors")
    mse = {"activations": {"observer": {"kind": "mse"}}, "calibration": ONE_BY_ONE}
    with service(tmp_path / "data", {**environment, **SHORT}) as running:
        recipes: list[Mapping[str, Any]] = [{"recipe": {"calibration": ONE_BY_ONE}}, {"recipe": mse}]
        sweep_id = submitted(running, program, samples, recipes)

        def far() -> bool:
            sweep = read(running, sweep_id)
            assert sweep["state"] not in TERMINAL, sweep
            return bool(sweep["phase"] == "calibrating" and sweep["progress"]["done"] >= SAMPLES // 6)

        eventually(far)
        os.kill(parent(running.child(sweep_id)), signal.SIGKILL)
        sweep = ended(running, sweep_id)
        attempts = running.client.get(sweep["links"]["attempts"]).json()["items"]
        artifacts = running.client.get(sweep["links"]["artifacts"]).json()
        table = running.client.get(f"/v1/jobs/{sweep_id}/artifacts/sweep.json").json()
    assert (sweep["state"], sweep["attempts"], len(sweep["rows"])) == ("succeeded", 2, 2)
    assert [attempt["outcome"] for attempt in attempts] == ["worker_lost", "succeeded"]
    assert [artifact["name"] for artifact in artifacts] == ["manifest.json", "sweep.json"]
    assert "calibrating" in table["resumed"]
    assert table["calibration"]["samples"] == SAMPLES
