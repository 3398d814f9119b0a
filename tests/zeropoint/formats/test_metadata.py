"""The metadata of saved files: the user's wish list, complete, valid by its JSON Schema, and the same every time."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn

from scripts.write_metadata_schema import SCHEMA, text
from tests.file_metadata import check_metadata
from tests.networks import Example, attention, convolutional, prenorm
from zeropoint import quantize
from zeropoint.files.safetensors import replace_metadata, save_tensors
from zeropoint.schema.metadata import FILE_KEY, LAYER_KEY

MAKES = [convolutional, attention, prenorm]


def saved(example: Example, folder: Path, *, program: bool, **recipe: object) -> Path:
    rows = [{n: t[i : i + 2] for n, t in example.dataset.items()} for i in range(0, 8, 2)]
    model: nn.Module | Path = example.export(folder / "m.pt2") if program else example.module
    wish = {"validation": {"on_failure": "ignore"}, **recipe}
    quantize(model, rows, recipe=wish, progress=False).save(folder / "out")
    return folder / "out"


def test_the_schema_file_is_that_of_the_models() -> None:
    assert SCHEMA.read_text() == text()


@pytest.mark.sampled(5)
@pytest.mark.parametrize("program", [True, False], ids=["program", "module"])
@pytest.mark.parametrize("make", MAKES)
def test_all_layers_are_there_with_shapes_and_original_dtypes(make: Any, program: bool, tmp_path: Path) -> None:
    example = make()
    out = saved(example, tmp_path, program=program)
    found = check_metadata((out / "model.safetensors").read_bytes())
    layers = found[FILE_KEY]["architecture"]["layers"]
    for name, parameter in example.module.named_parameters():
        tensors = next(one["tensors"] for one in layers.values() if name in one["tensors"])
        assert tensors[name] == {"dtype": "float32", "shape": list(parameter.shape)}


@pytest.mark.parametrize(
    "recipe",
    [{}, {"weights": {"dtype": "int4", "group_size": 2}, "layer_types": ["Linear"]}, {"weights": {"dtype": "float16"}}],
    ids=["static", "int4", "cast"],
)
def test_the_numbers_are_the_reports(tmp_path: Path, recipe: dict[str, object]) -> None:
    out = saved(convolutional(), tmp_path, program=True, **recipe)
    report = json.loads((out / "report.json").read_text())
    found = check_metadata((out / "model.safetensors").read_bytes())
    about, summary = found[FILE_KEY], report["summary"]
    assert (about["verdict"], about["evaluation"]) == (report["verdict"], report["evaluation"])
    assert about["warnings"] == [one["code"] for one in report["warnings"] if one["level"] == "warning"]
    for name in ("sqnr_db", "compression_ratio", "worst_output_db", "weights_in_float", "macs_in_float"):
        assert about["statistics"][name] == pytest.approx(summary[name], abs=1e-4)
    assert [one["name"] for one in about["statistics"]["outputs"]] == [one["name"] for one in report["outputs"]]
    for layer in report["layers"]:
        own = found[LAYER_KEY + layer["name"]]
        assert own["statistics"]["output_sqnr_db"] == pytest.approx(layer["output_sqnr_db"], abs=1e-4)
        assert own["weight"]["original_dtype"] == "float32"


def test_the_checkpoint_says_the_same(tmp_path: Path) -> None:
    out = saved(convolutional(), tmp_path, program=False)
    checkpoint = torch.load(out / "model.pt", weights_only=True)["metadata"]
    found = check_metadata((out / "model.safetensors").read_bytes())
    assert {key: json.loads(value) for key, value in checkpoint.items()} == found


def test_the_same_work_gives_the_same_bytes(tmp_path: Path) -> None:
    digests = set()
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        out = saved(convolutional(), tmp_path / name, program=True)
        digests.add(hashlib.sha256((out / "model.safetensors").read_bytes()).hexdigest())
    assert len(digests) == 1


@pytest.mark.parametrize("room", [0, 4096])
def test_replaced_metadata_leaves_every_tensor_as_it_was(tmp_path: Path, room: int) -> None:
    path = tmp_path / "t.safetensors"
    tensors: dict[str, Tensor] = {"a": torch.randn(3, 5), "b": torch.arange(7, dtype=torch.int8), "c": torch.zeros(0)}
    save_tensors(tensors, path, {"x": 1}, room)
    size, words = path.stat().st_size, {"x": "2", "ä": "word " * 100}
    replace_metadata(path, words)
    assert (path.stat().st_size == size) == bool(room)
    with safe_open(path, framework="pt") as file:
        assert file.metadata() == words
        assert all(torch.equal(file.get_tensor(name), tensor) for name, tensor in tensors.items())
    assert [one.name for one in tmp_path.iterdir()] == ["t.safetensors"]
