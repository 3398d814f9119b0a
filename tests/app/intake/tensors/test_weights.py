"""A file of weights is a model: known by its bytes, every value checked, its layers guessed from names and shapes."""

import io
import json
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from safetensors.torch import load, save_file

from app.errors import Invalid
from app.intake.child import read
from app.intake.facts import Layer, Model
from app.intake.gate import pass_gate
from app.intake.limits import Limits
from tests.app.intake.memory import outcome_and_growth
from tests.factories import safetensors
from tests.hostile_uploads import WEIGHTS_ATTACKS


def test_the_gate_says_what_is_in_it_and_writes_it_anew(tmp_path: Path) -> None:
    tensors = {"a.weight": torch.randn(4, 3).to(torch.bfloat16), "a.bias": torch.randn(4), "step": torch.tensor(3)}
    save_file(tensors, tmp_path / "any", {"made": "by me"})
    pieces: list[bytes] = []
    facts = pass_gate("model", tmp_path / "any", Limits(), pieces.append)
    layers = (Layer("a", "Linear", (4, 3), 16), Layer("step", "Module", None, 1))
    assert facts == json.loads(json.dumps(asdict(Model("safetensors", (), layers, 17))))
    fresh = b"".join(pieces)
    assert b"by me" not in fresh
    assert {name: tensor.tolist() for name, tensor in load(fresh).items()} == {
        name: tensor.tolist() for name, tensor in tensors.items()
    }


@pytest.mark.parametrize(
    ("tensors", "warned"),
    [
        ({"x": ("F32", [8, 3, 4, 4])}, True),  # samples, uploaded as a model
        ({"input_ids": ("I64", [8, 3]), "attention_mask": ("I64", [8, 3])}, True),
        ({"a.weight": ("F32", [3]), "a.bias": ("F32", [3])}, True),
        ({"x": ("F32", [8, 3]), "a.weight": ("F32", [4, 3])}, False),
        ({"emb.weight": ("F32", [4, 3])}, False),
    ],
)
def test_tensors_that_are_no_weights_of_layers_are_warned_of(
    tmp_path: Path, tensors: dict[str, tuple[str, list[int]]], warned: bool
) -> None:
    (tmp_path / "any").write_bytes(safetensors(**tensors))
    warnings = read("model", tmp_path / "any", Limits(), "").facts.warnings
    assert [warning.code for warning in warnings] == ["no_layers"] * warned
    assert all("POST /v1/datasets" in warning.remedy for warning in warnings)


@pytest.mark.parametrize("name", WEIGHTS_ATTACKS)
def test_an_attack_meets_its_answer(tmp_path: Path, name: str) -> None:
    data, answer = WEIGHTS_ATTACKS[name]
    path = tmp_path / "model.safetensors"
    path.write_bytes(data)
    if answer is None:
        target = io.BytesIO()
        read("model", path, Limits(), "").write(target)
        assert b"CANARY" not in target.getvalue()
        return
    with pytest.raises(Invalid) as refusal:
        read("model", path, Limits(), "")
    assert answer in refusal.value.detail
    assert refusal.value.code == ("non_finite_weights" if "NaN" in answer else "weights_invalid")
    assert "CANARY" not in refusal.value.detail
    assert len(refusal.value.detail) < 1000


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(safetensors(**{"a.weight": ("F32", [2**12, 2**12])}))  # 64 MiB
    imports = "from app.intake.tensors.weights import read_weights"
    statement = "read_weights(Path(sys.argv[1])).write(open('/dev/null', 'wb'))"
    outcome, growth = outcome_and_growth(imports, statement, str(path))
    assert outcome == "taken"
    assert growth < 8 * 1024
