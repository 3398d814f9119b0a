"""Weights alone through the whole service: uploaded, quantized as a stream, compared, downloaded."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from safetensors.torch import load, save_file

from tests.service.running import Running
from tests.weight_files import PROJECTIONS, transformer
from zeropoint.layers.weights import quantize_weight
from zeropoint.schema.recipe import WeightSettings

pytestmark = pytest.mark.service


@pytest.fixture(scope="module")
def model(running: Running, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("weights") / "llama.safetensors"
    save_file(transformer(), path)
    return running.upload("models", path)


def artifacts(running: Running, model: str, recipe: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The ended job, and its artifacts by name."""
    answer = running.client.post("/v1/jobs", json={"model": model, "recipe": recipe})
    assert answer.status_code == 202, answer.text
    job = running.ended(answer.json()["id"])
    listed = running.client.get(job["links"]["artifacts"]).json()
    return job, {one["name"]: running.client.get(one["url"]) for one in listed}


def test_a_model_without_a_graph_has_layers_and_no_inputs(running: Running, model: str) -> None:
    told = running.client.get(f"/v1/models/{model}").json()
    assert (told["format"], told["inputs"]) == ("safetensors", [])
    assert {layer["name"] for layer in told["layers"] if layer["type"] == "Linear"} == {
        *PROJECTIONS,
        "lm_head",
        "model.mask",
    }


@pytest.mark.parametrize("dtype", ["qint8", "int4", "float16"])
def test_a_job_succeeds_and_says_what_was_compared(running: Running, model: str, dtype: str) -> None:
    job, files = artifacts(running, model, {"weights": {"dtype": dtype}, "activations": None})
    assert (job["state"], job["verdict"], job["error"]) == ("succeeded", "not_evaluated", None)
    assert set(files) == {"model.safetensors", "report.json", "manifest.json"}
    (loaded,) = [check for check in files["report.json"].json()["checks"] if check["name"] == "load_and_run"]
    assert "Nothing was run" in loaded["detail"]
    assert files["manifest.json"].json()["outputs"]["model.safetensors"]["loader"] == "safetensors.safe_open"
    stored, settings = load(files["model.safetensors"].content), WeightSettings.model_validate({"dtype": dtype})
    if dtype != "int4":
        numbers, _ = quantize_weight(transformer()["lm_head.weight"], settings, 0)
        assert torch.equal(stored["lm_head.weight"], numbers)
    assert torch.equal(stored["model.embed_tokens.weight"], transformer()["model.embed_tokens.weight"])
