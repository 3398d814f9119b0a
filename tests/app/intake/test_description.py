"""What a folder is: told by a process of its own, which builds the network without a weight in memory."""

import json
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from app.errors import Invalid
from app.intake.description import LEAST_MEMORY_BYTES, describe_folder
from app.intake.gate import pass_gate
from app.intake.limits import Limits
from tests.transformers_networks import Network, network
from zeropoint.entrypoints.describe import facts
from zeropoint.errors import InvalidModel


@pytest.fixture
def bert(tmp_path: Path) -> Network:
    return network("BertModel", tmp_path / "folder")


def described(made: Network, folder: Path) -> dict[str, Any]:
    """What is told of the folder, once the gate wrote it anew; with the least memory that a gate may have for it."""
    return describe_folder(gated(made, folder), Limits(memory_bytes=LEAST_MEMORY_BYTES))


def gated(made: Network, folder: Path) -> Path:
    """What the gate writes of the folder."""
    pieces: list[bytes] = []
    pass_gate("model", made.pack(folder / "upload.tar"), Limits(), pieces.append)
    (folder / "fresh.tar").write_bytes(b"".join(pieces))
    return folder / "fresh.tar"


def test_inputs_layers_and_parameters_are_described(bert: Network, tmp_path: Path) -> None:
    told = described(bert, tmp_path)
    tokens = {"dtype": "int64", "shape": [{"min": 1, "max": None}, {"min": 1, "max": 40}]}
    assert told["inputs"] == [
        {"name": "input_ids", **tokens, "optional": False},
        {"name": "attention_mask", **tokens, "optional": True},
        {"name": "token_type_ids", **tokens, "optional": True},
    ]
    assert told["parameters"] == sum(parameter.numel() for parameter in bert.model.parameters())
    layers = {layer["name"]: layer for layer in told["layers"]}
    assert layers["encoder.layer.0.intermediate.dense"] == {
        "name": "encoder.layer.0.intermediate.dense",
        "type": "Linear",
        "weight_shape": [64, 32],
        "parameters": 64 * 32 + 64,
    }
    assert {layer["type"] for layer in told["layers"]} == {"Embedding", "LayerNorm", "Linear"}


Tensors = dict[str, torch.Tensor]
QUERY = "encoder.layer.0.attention.self.query.weight"
MISFITS: dict[str, tuple[Callable[[Tensors], object], str]] = {
    "missing": (lambda tensors: tensors.pop(QUERY), f"Tensor '{QUERY}' of BertModel is missing."),
    "left over": (
        lambda tensors: tensors.update({"lm_head.weight": torch.ones(64, 32)}),
        "Tensor 'lm_head.weight' has no place in BertModel.",
    ),
    "another shape": (
        lambda tensors: tensors.update({QUERY: torch.ones(32, 31)}),
        f"Tensor '{QUERY}' has shape [32, 31]; config.json implies [32, 32].",
    ),
}


@pytest.mark.parametrize(("change", "detail"), MISFITS.values(), ids=MISFITS)
def test_a_tensor_that_does_not_fit_is_named(
    bert: Network, tmp_path: Path, change: Callable[[Tensors], object], detail: str
) -> None:
    """By what the process runs, in this one, which has the library loaded; its answers are in the tests beside."""
    tensors = load_file(bert.folder / "model.safetensors")
    change(tensors)
    save_file(tensors, bert.folder / "model.safetensors")
    with pytest.raises(InvalidModel) as refusal:
        facts(gated(bert, tmp_path))
    assert (refusal.value.code, refusal.value.detail) == ("checkpoint_does_not_fit", detail)
    assert refusal.value.remedy


def test_a_config_that_claims_a_huge_network_costs_nothing(bert: Network, tmp_path: Path) -> None:
    """A tebibyte for the words alone, of which the process could not have a hundredth."""
    path = bert.folder / "config.json"
    huge = {"hidden_size": 2**18, "intermediate_size": 2**18, "vocab_size": 2**20, "num_hidden_layers": 512}
    path.write_text(json.dumps(json.loads(path.read_text()) | huge))
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    with pytest.raises(Invalid) as refusal:
        described(bert, tmp_path)
    assert 0 < resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before < 60
    assert refusal.value.code == "checkpoint_does_not_fit"
    assert "has shape" in refusal.value.detail
    assert refusal.value.remedy


def test_without_the_library_the_answer_is_what_to_install(bert: Network, tmp_path: Path) -> None:
    with pytest.raises(Invalid) as refusal:
        describe_folder(bert.pack(tmp_path / "any.tar"), Limits(), needed=("torch", "transformers_of_nobody"))
    assert refusal.value.code == "transformers_missing"
    assert "zeropoint[service,transformers]" in refusal.value.remedy


@pytest.mark.parametrize("memory_bytes", [2**27, LEAST_MEMORY_BYTES - 1])
def test_a_description_has_the_memory_of_a_gate_and_no_more(tmp_path: Path, memory_bytes: int) -> None:
    """It runs in the gate's place, whose memory is what the service promises of the machine's."""
    with pytest.raises(Invalid, match="ZEROPOINT_GATE_MEMORY_BYTES") as refusal:
        describe_folder(tmp_path, Limits(memory_bytes=memory_bytes))
    assert refusal.value.code == "upload_too_demanding"
