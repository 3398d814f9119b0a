"""A sentence encoder as its authors ship it goes through the service, and comes back as such a folder."""

import io
import json
import tarfile
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import save_file

from tests.sentence_encoder import BESIDE, CARRIED, DOCUMENTS, shipped
from tests.service.running import Running

pytestmark = [pytest.mark.service, pytest.mark.slow]


def test_it_comes_back_with_its_pooling(running: Running, tmp_path: Path) -> None:
    made = shipped(tmp_path / "all-MiniLM", tmp_path / "canary")
    with tarfile.open(tmp_path / "model.tar.gz", "w:gz") as archive:
        archive.add(made.folder, "all-MiniLM")
    save_file(made.inputs, tmp_path / "texts.safetensors")
    model, dataset = (
        running.upload("models", tmp_path / "model.tar.gz"),
        running.upload("datasets", tmp_path / "texts.safetensors"),
    )
    told = running.client.get(f"/v1/models/{model}").json()
    assert {entry["name"]: entry["reason"] for entry in told["left_out"]} == BESIDE
    wish = {"model": model, "dataset": dataset, "preset": "int8-static"}
    job = running.ended(running.client.post("/v1/jobs", json=wish).raise_for_status().json()["id"])
    assert (job["state"], job["error"]) == ("succeeded", None)
    listed = {entry["name"]: entry for entry in running.client.get(job["links"]["artifacts"]).json()}
    folder = tmp_path / "quantized"
    with tarfile.open(fileobj=io.BytesIO(running.client.get(listed["model.tar"]["url"]).content)) as archive:
        archive.extractall(folder, filter="data")
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    assert set(files) == {"config.json", "model.safetensors", *CARRIED, *DOCUMENTS}
    assert {name: json.loads(files[name].read_bytes()) for name in DOCUMENTS} == DOCUMENTS
    for name in CARRIED:
        assert files[name].read_bytes() == (made.folder / name).read_bytes()
    for name, path in files.items():  # also one by one
        assert running.client.get(listed[name]["url"]).content == path.read_bytes()
    loaded = transformers.AutoModel.from_pretrained(folder)
    with torch.no_grad():
        exact, quantized = (network(**made.inputs).last_hidden_state for network in (made.model, loaded))
    assert 10 * torch.log10(exact.square().sum() / (exact - quantized).square().sum()) > 15
    assert not (tmp_path / "canary").exists()
