"""A Hugging Face folder as a source: what is built is what from_pretrained builds, and what it lists is what it has."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

from app.intake.huggingface.architectures import ARCHITECTURES
from app.intake.huggingface.rewrite import read_folder
from app.intake.limits import Limits
from tests.transformers_networks import CONFIGS, Network, network
from zeropoint.data.batches import ModelInputs
from zeropoint.entrypoints.describe import facts
from zeropoint.sources.huggingface.source import HuggingFaceSource, open_huggingface


def upload(made: Network, folder: Path) -> Path:
    """What the gate makes of a folder."""
    scratch, fresh = folder / "scratch", folder / "model.tar"
    scratch.mkdir()
    checked = read_folder(made.pack(folder / "upload.tar"), scratch, Limits().folder_bytes)
    with fresh.open("wb") as target:
        checked.write(target)
    return fresh


def run(source: HuggingFaceSource, inputs: dict[str, Tensor]) -> list[Tensor]:
    with torch.no_grad():
        outputs = source.run(ModelInputs(inputs.values(), list(inputs)))
    return [value for value in outputs if isinstance(value, Tensor)]


def test_the_networks_here_are_in_the_table() -> None:
    for name in CONFIGS:
        assert name in ARCHITECTURES[getattr(transformers, name).config_class.model_type]


@pytest.mark.sampled(5)
@pytest.mark.parametrize("name", CONFIGS)
def test_it_computes_what_from_pretrained_computes(name: str, tmp_path: Path) -> None:
    made = network(name, tmp_path / "folder")
    source = open_huggingface(upload(made, tmp_path), "cpu")
    outputs = run(source, made.inputs)
    made.model.config.use_cache = False
    with torch.no_grad():
        expected = [value for value in made.model(**made.inputs).values() if isinstance(value, Tensor)]
    assert len(outputs) == len(expected) > 0
    for ours, theirs in zip(outputs, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.sampled(5)
@pytest.mark.parametrize("name", CONFIGS)
def test_what_is_told_at_upload_is_what_the_job_finds(name: str, tmp_path: Path) -> None:
    made = network(name, tmp_path / "folder")
    told: dict[str, Any] = facts(upload(made, tmp_path))
    source = open_huggingface(tmp_path / "model.tar", "cpu")
    assert [(entry["name"], entry["type"]) for entry in told["layers"]] == [
        (layer.name, layer.type) for layer in source.layers
    ]
    assert told["parameters"] == sum(p.numel() for p in made.model.parameters())
    required = {entry["name"] for entry in told["inputs"] if not entry["optional"]}
    assert required <= set(made.inputs) <= {entry["name"] for entry in told["inputs"]}


def test_a_network_that_writes_into_its_inputs_gets_copies(tmp_path: Path) -> None:
    made = network("BertForSequenceClassification", tmp_path / "folder")
    source = open_huggingface(upload(made, tmp_path), "cpu")
    before = {name: tensor.clone() for name, tensor in made.inputs.items()}
    plain = run(source, made.inputs)

    def write(_: nn.Module, __: object, keywords: dict[str, Tensor]) -> None:
        keywords["input_ids"].fill_(1)

    source.module.register_forward_pre_hook(write, with_kwargs=True)
    changed = run(source, made.inputs)
    assert not torch.equal(changed[0], plain[0])
    assert all(torch.equal(tensor, before[name]) for name, tensor in made.inputs.items())
