import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from safetensors.torch import save

from app.errors import Invalid
from app.intake.huggingface.read import Checkpoint, CheckpointTensor, read_checkpoint
from app.intake.huggingface.unpack import unpack_folder
from tests.app.intake.huggingface.test_config import BERT
from tests.app.intake.mutations import SETTINGS, damaged_json, taken_or_refused
from tests.app.intake.tars import tar_of

CONFIG = json.dumps(BERT).encode()
FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
SHARDS = {
    FIRST: save({"a.weight": torch.ones(2, 3), "scale": torch.tensor(1.0)}),
    SECOND: save({"b.weight": torch.ones(4, dtype=torch.bfloat16)}),
}
INDEX: dict[str, Any] = {
    "metadata": {"total_size": 36},
    "weight_map": {"a.weight": FIRST, "scale": FIRST, "b.weight": SECOND},
}


def unpack_and_read(path: Path) -> Checkpoint:
    target = path.parent / "unpacked"
    target.mkdir(exist_ok=True)
    return read_checkpoint(target, unpack_folder(path, target, 2**30))


def read(folder: Path, files: dict[str, bytes]) -> Checkpoint:
    (folder / "x.tar").write_bytes(tar_of(files))
    return unpack_and_read(folder / "x.tar")


def sharded(weight_map: Any = INDEX["weight_map"], **shards: bytes) -> dict[str, bytes]:
    index = json.dumps({"weight_map": weight_map}).encode()
    return {"config.json": CONFIG, "model.safetensors.index.json": index, **SHARDS, **shards}


def refusal_of(folder: Path, files: dict[str, bytes]) -> Invalid:
    with pytest.raises(Invalid) as refusal:
        read(folder, files)
    return refusal.value


def test_one_file_of_weights_is_read(tmp_path: Path) -> None:
    weights = save({"a": torch.ones(2, 3), "b": torch.tensor(1.0).half()})
    found = read(tmp_path, {"config.json": CONFIG, "model.safetensors": weights, "vocab.txt": b"x"})
    assert (found.model_type, found.architecture, found.config["hidden_size"]) == (
        "bert",
        "BertForSequenceClassification",
        768,
    )
    assert found.tensors == {
        "a": CheckpointTensor("1.safetensors", "float32", (2, 3)),
        "b": CheckpointTensor("1.safetensors", "float16", ()),
    }
    assert found.parameters == 7


def test_shards_are_read_with_their_index(tmp_path: Path) -> None:
    found = read(
        tmp_path, {"config.json": CONFIG, "model.safetensors.index.json": json.dumps(INDEX).encode(), **SHARDS}
    )
    assert found.parameters == 11
    assert {name: tensor.file for name, tensor in found.tensors.items()} == {
        "a.weight": "2.safetensors",
        "scale": "2.safetensors",
        "b.weight": "3.safetensors",
    }


MAP: dict[str, Any] = INDEX["weight_map"]
BROKEN_MAPS: dict[str, tuple[Any, str]] = {
    "another folder": (MAP | {"scale": "../victim/model.safetensors"}, "map tensor names only to"),
    "an absolute path": (MAP | {"scale": "/etc/passwd"}, "map tensor names only to"),
    "a pickle": (MAP | {"scale": "pytorch_model.bin"}, "map tensor names only to"),
    "a number": (MAP | {"scale": 1}, "map tensor names only to"),
    "a name that is a path": ({"../x\0": FIRST}, "map tensor names only to"),
    "a file that is not there": (MAP | {"scale": "model-00003-of-00003.safetensors"}, "not the ones"),
    "the whole": (dict.fromkeys(MAP, "model.safetensors"), "not the ones"),
    "a file that is not named": (dict.fromkeys(MAP, FIRST), "not the ones"),
    "another place": (MAP | {"scale": SECOND}, "scale is in"),
    "a tensor that is nowhere": (MAP | {"ghost": SECOND}, "ghost is in the index but in no file"),
    "a tensor that is not named": ({"a.weight": FIRST, "b.weight": SECOND}, "scale is in"),
    "nothing": ({}, "weight_map is missing"),
    "a list": ([], "weight_map is missing"),
}


@pytest.mark.parametrize(("weight_map", "why"), BROKEN_MAPS.values(), ids=BROKEN_MAPS.keys())
def test_an_index_that_is_not_true_is_refused(tmp_path: Path, weight_map: Any, why: str) -> None:
    refusal = refusal_of(tmp_path, sharded(weight_map))
    assert refusal.code == "checkpoint_invalid"
    assert why in refusal.detail


@pytest.mark.parametrize("missing", ["config.json", FIRST, SECOND, "model.safetensors.index.json"])
def test_every_file_is_needed(tmp_path: Path, missing: str) -> None:
    files = sharded()
    del files[missing]
    assert refusal_of(tmp_path, files).code == "checkpoint_invalid"


@pytest.mark.parametrize(
    "names",
    [
        ["model-00001-of-00003.safetensors", "model-00002-of-00003.safetensors"],
        ["model-00001-of-00002.safetensors", "model-00003-of-00002.safetensors"],
        ["model-00000-of-00002.safetensors", "model-00001-of-00002.safetensors"],
        ["model-00001-of-00002.safetensors", "model-00002-of-00003.safetensors"],
        ["model-00001-of-00002.safetensors", "model.safetensors"],
    ],
)
def test_shards_are_a_complete_set(tmp_path: Path, names: list[str]) -> None:
    weights = {name: save({f"t{number}": torch.ones(1)}) for number, name in enumerate(names)}
    index = {"weight_map": {f"t{number}": name for number, name in enumerate(names)}}
    files = {"config.json": CONFIG, "model.safetensors.index.json": json.dumps(index).encode(), **weights}
    assert "files of weights" in refusal_of(tmp_path, files).detail


def test_a_tensor_in_two_files_is_refused(tmp_path: Path) -> None:
    files = sharded(**{SECOND: save({"b.weight": torch.ones(4), "scale": torch.tensor(1.0)})})
    assert "scale is in" in refusal_of(tmp_path, files).detail


@pytest.mark.parametrize(
    ("weights", "code"),
    [
        (save({"a": torch.tensor([1.0, float("nan")])}), "non_finite_weights"),
        (save({"a": torch.ones(2)})[:-1], "weights_invalid"),
        (b"\x80\x02}q\x00.", "weights_invalid"),
    ],
)
def test_weights_that_are_not_true_are_refused(tmp_path: Path, weights: bytes, code: str) -> None:
    assert refusal_of(tmp_path, {"config.json": CONFIG, "model.safetensors": weights}).code == code


@SETTINGS
@given(index=damaged_json(INDEX))
def test_damaged_indexes_are_taken_or_refused(tmp_path: Path, index: bytes) -> None:
    files = {"config.json": CONFIG, "model.safetensors.index.json": index, **SHARDS}
    taken_or_refused(unpack_and_read, tmp_path / "x.tar", tar_of(files))
