"""Weights by torch.save in a folder become the same safetensors as if save_pretrained had written these."""

import io
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor

from app.errors import Invalid
from app.intake.child import read_model
from app.intake.limits import Limits
from tests.app.intake.tars import tar_of
from tests.factories import write_zip
from tests.hostile_folders import WEIGHTS, honest_folder

Pack = Callable[[Path, dict[str, bytes]], Path]


def bytes_of(value: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, **options)
    return buffer.getvalue()


@cache
def honest() -> dict[str, bytes]:
    return {name: data for name, data in honest_folder().items() if isinstance(data, bytes)}


def files_of(form: str) -> dict[str, bytes]:
    """An honest folder with its weights in a form."""
    files = dict(honest())
    tensors = load(files.pop(WEIGHTS))
    match form:
        case "safetensors":
            return files | {WEIGHTS: save(tensors)}
        case "zip":
            return files | {"pytorch_model.bin": bytes_of(tensors)}
        case "before 1.6":
            return files | {"pytorch_model.bin": bytes_of(tensors, _use_new_zipfile_serialization=False)}
        case "beside":
            return files | {WEIGHTS: save(tensors), "pytorch_model.bin": b"\x80\x02cos\nsystem\n."}
        case "shards":
            return files | shards(tensors, "model", "safetensors", save)
    return files | shards(tensors, "pytorch_model", "bin", bytes_of)


def shards(tensors: dict[str, Tensor], stem: str, suffix: str, write: Callable[..., bytes]) -> dict[str, bytes]:
    names = sorted(tensors)
    parts = {1: names[:9], 2: names[9:]}
    places = {name: f"{stem}-0000{part}-of-00002.{suffix}" for part, held in parts.items() for name in held}
    index = json.dumps({"metadata": {}, "weight_map": places}).encode()
    written = {places[held[0]]: write({name: tensors[name] for name in held}) for held in parts.values()}
    return {f"{stem}.{suffix}.index.json": index, **written}


def tarred(path: Path, files: dict[str, bytes]) -> Path:
    path.write_bytes(tar_of(files))
    return path


def zipped(path: Path, files: dict[str, bytes]) -> Path:
    return write_zip(path, files)


def fresh(tmp_path: Path, pack: Pack, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> tuple[Any, bytes]:
    scratch = tmp_path / str(len(list(tmp_path.iterdir())))
    scratch.mkdir()
    monkeypatch.chdir(scratch)
    checked = read_model(pack(tmp_path / "upload", files), Limits())
    target = io.BytesIO()
    checked.write(target)
    return checked.facts, target.getvalue()


@pytest.mark.parametrize("pack", [tarred, zipped])
@pytest.mark.parametrize(
    ("form", "like"),
    [("zip", "safetensors"), ("before 1.6", "safetensors"), ("beside", "safetensors"), ("bin", "shards")],
)
def test_the_form_of_the_weights_changes_no_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pack: Pack, form: str, like: str
) -> None:
    facts, data = fresh(tmp_path, pack, files_of(form), monkeypatch)
    assert data == fresh(tmp_path, pack, files_of(like), monkeypatch)[1]
    assert facts.format == "huggingface"
    assert [entry.name for entry in facts.left_out] == (["pytorch_model.bin"] if form == "beside" else [])


@pytest.mark.parametrize("pack", [tarred, zipped])
@pytest.mark.parametrize("form", ["bin", "shards"])
def test_shards_without_a_config_are_weights_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pack: Pack, form: str
) -> None:
    files = {name: data for name, data in files_of(form).items() if "model" in name and "config" not in name}
    facts, data = fresh(tmp_path, pack, files, monkeypatch)
    expected = load(files_of("safetensors")[WEIGHTS]).keys()
    assert (facts.format, load(data).keys()) == ("safetensors", expected)
    assert {layer.type for layer in facts.layers} >= {"Linear", "Embedding"}


@pytest.mark.parametrize("missing", ["pytorch_model.bin.index.json", "pytorch_model-00002-of-00002.bin"])
def test_shards_by_torch_save_are_a_complete_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    files = files_of("bin")
    del files[missing]
    with pytest.raises(Invalid, match=r"pytorch_model\.bin\.index\.json"):
        fresh(tmp_path, tarred, files, monkeypatch)


def test_a_refusal_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = files_of("bin") | {"pytorch_model-00002-of-00002.bin": bytes_of({"a": torch.eye(2).to_sparse()})}
    with pytest.raises(Invalid, match=r"pytorch_model-00002-of-00002\.bin: The pickle in the file .* a is a sparse"):
        fresh(tmp_path, tarred, files, monkeypatch)
