"""Algorithms, targets and recommendations through the whole service, over HTTP."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.service.running import Running

pytestmark = pytest.mark.service


def done(running: Running, program: Path, samples: Path, **wishes: object) -> tuple[dict[str, Any], dict[str, Any]]:
    """The job and its report. Another dataset evaluates where `evaluation_dataset` is its path."""
    model, dataset = running.upload("models", program), running.upload("datasets", samples)
    if isinstance(path := wishes.get("evaluation_dataset"), Path):
        wishes["evaluation_dataset"] = running.upload("datasets", path)
    answer = running.client.post("/v1/jobs", json={"model": model, "dataset": dataset, **wishes})
    assert answer.status_code == 202, answer.text
    job = running.ended(answer.json()["id"])
    assert (job["state"], job["error"]) == ("succeeded", None)
    report: dict[str, Any] = running.client.get(job["links"]["report"]).raise_for_status().json()
    return job, report


def names(running: Running, job: Mapping[str, Any]) -> set[str]:
    return {artifact["name"] for artifact in running.client.get(job["links"]["artifacts"]).json()}


def test_the_accurate_preset_tells_what_it_tried(running: Running, program: Path, few_samples: Path) -> None:
    job, report = done(running, program, few_samples, preset="int8-accurate")
    assert job["verdict"] == "passed"
    assert {step["algorithm"] for step in report["algorithms"]} >= {"mse_clipping", "smoothing", "bias_correction"}
    assert all(step["reason"] for step in report["algorithms"])
    gained = [step for step in report["algorithms"] if step["kept"] and step["after_db"] != step["before_db"]]
    assert all(step["after_db"] > step["before_db"] for step in gained)
    assert report["gate"]["samples"] > 0
    assert {"model.pt2", "model.safetensors"} <= names(running, job)


def test_a_recommendation_is_a_recipe_that_can_be_submitted(running: Running, program: Path, few_samples: Path) -> None:
    wishes = {"mode": "recommend", "sensitivity": True, "target": {"min_sqnr_db": 60}}
    job, report = done(running, program, few_samples, recipe=wishes)
    assert (job["verdict"], names(running, job)) == ("not_evaluated", {"report.json", "manifest.json"})
    assert all(layer["sensitivity_db"] is not None for layer in report["layers"])
    again, second = done(running, program, few_samples, recipe=report["recommendation"])
    assert [layer["name"] for layer in second["layers"]] == [layer["name"] for layer in report["layers"]]
    assert "model.pt2" in names(running, again)


def test_a_metric_of_labels_chooses_and_a_missed_target_is_a_warning(
    tmp_path: Path, running: Running, program: Path, few_samples: Path
) -> None:
    samples = load_file(few_samples)
    save_file({**samples, "labels": torch.arange(40) % 10}, tmp_path / "labelled.safetensors")
    wishes: dict[str, Any] = {"evaluation_dataset": tmp_path / "labelled.safetensors"}
    drop = {"target": {"max_drop": {"metric": "top1", "value": 0.05}}}
    job, report = done(running, program, few_samples, recipe=drop, **wishes)
    assert (job["verdict"], report["target"]["met"]) == ("passed", True)
    assert {"top1", "agreement"} <= {metric["name"] for metric in report["metrics"]}
    job, report = done(running, program, few_samples, recipe={"target": {"max_bytes": 1}})
    assert (job["verdict"], report["target"]["met"]) == ("warned", False)
    assert "Not found within" in report["target"]["detail"]
