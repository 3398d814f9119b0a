"""Programs of other releases and state dicts through the whole service, and their artifacts load."""

import io
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load, save_file

from tests.release_exports import exported
from tests.service.running import Running
from zeropoint import load as load_quantized

pytestmark = [pytest.mark.service, pytest.mark.sampled(2)]


def artifacts_of(running: Running, job_id: str) -> dict[str, bytes]:
    job = running.ended(job_id)
    assert (job["state"], job["error"]) == ("succeeded", None)
    listed = running.client.get(job["links"]["artifacts"]).json()
    return {one["name"]: running.client.get(one["url"]).content for one in listed}


@pytest.mark.parametrize(("release", "network"), [("2.6.0", "cnn"), ("2.8.0", "encoder"), ("2.15.0", "recurrent")])
def test_a_program_of_a_release_is_quantized(running: Running, tmp_path: Path, release: str, network: str) -> None:
    given = exported(release, network)
    save_file(given.inputs, tmp_path / "samples.safetensors")
    files = artifacts_of(running, running.submit(given.path, tmp_path / "samples.safetensors", {}))
    (tmp_path / "model.pt2").write_bytes(files["model.pt2"])
    quantized: Any = load_quantized(tmp_path / "model.pt2")
    noise = quantized(**given.inputs) - given.output
    # the first has 15 dB without its bias
    assert 10 * torch.log10(given.output.square().sum() / noise.square().sum()) > 35


def test_a_state_dict_is_quantized(running: Running, tmp_path: Path) -> None:
    first, second = torch.nn.Linear(8, 4), torch.nn.Linear(4, 8)
    second.weight = torch.nn.Parameter(first.weight.t())
    module = torch.nn.Sequential(first, second)
    torch.save(module.state_dict(), tmp_path / "model.pth")
    answer = running.client.post("/v1/models", content=(tmp_path / "model.pth").read_bytes()).json()
    recipe = {"weights": {"dtype": "float16"}, "activations": None}
    job = running.client.post("/v1/jobs", json={"model": answer["id"], "recipe": recipe}).json()
    stored = load(artifacts_of(running, job["id"])["model.safetensors"])
    assert (answer["format"], [layer["type"] for layer in answer["layers"]]) == ("safetensors", ["Linear", "Linear"])
    assert torch.equal(stored["1.weight"], second.weight.half())


def test_the_answer_to_an_object_names_it(running: Running) -> None:
    buffer = io.BytesIO()
    torch.save({"weights": torch.ones(2), "network": torch.nn.Linear(2, 2)}, buffer)
    answer = running.client.post("/v1/models", content=buffer.getvalue())
    assert (answer.status_code, answer.json()["code"]) == (422, "weights_invalid")
    assert "network is an object of torch.nn.modules.linear.Linear" in answer.json()["detail"]
