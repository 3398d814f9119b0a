"""Models of other kinds, as their own tools write them, are named, and the answer says what to upload instead."""

import importlib
import io
import pickle
import tarfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import joblib  # type: ignore[import-untyped]
import onnx
import pytest
import torch

from app.errors import Invalid
from app.intake.child import read, read_model
from app.intake.limits import Limits
from tests.factories import safetensors
from tests.networks import convolutional


def zipped(*names: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in names:
            archive.writestr(name, b"{}")
    return buffer.getvalue()


def onnx_of(**options: str) -> bytes:
    graph = onnx.helper.make_graph([], "graph", [], [])
    data: bytes = onnx.helper.make_model(graph, **options).SerializeToString()
    return data


def script(*, lite: bool = False) -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scripted = torch.jit.script(torch.nn.Linear(2, 2))
        if lite:
            data: bytes = scripted._save_to_buffer_for_lite_interpreter()  # type: ignore[no-untyped-call]
            return data
        torch.jit.save(scripted, buffer)
    return buffer.getvalue()


def fitted() -> Any:
    """It is imported here: that takes a second, in each process that runs tests."""
    return importlib.import_module("sklearn.linear_model").LogisticRegression().fit([[0.0], [1.0]], [0, 1])


def dumped(compress: int) -> bytes:
    buffer = io.BytesIO()
    joblib.dump(fitted(), buffer, compress=compress)
    return buffer.getvalue()


FILES: dict[str, tuple[Callable[[], bytes], str, str]] = {
    "onnx of torch": (lambda: onnx_of(producer_name="pytorch"), "an ONNX model", "PyTorch model that it was converted"),
    "onnx of 2": (lambda: onnx_of(producer_name="2onnx"), "an ONNX model", "torch.export.save"),
    "onnx of nobody": (onnx_of, "an ONNX model", "torch.export.save"),
    "gguf": (lambda: b"GGUF\3\0\0\0" + bytes(32), "a GGUF file", "Hugging Face folder that it was converted from"),
    "torch script": (script, "a TorchScript archive", "module that was scripted"),
    "torch script of mobiles": (lambda: script(lite=True), "a TorchScript archive", "module that was scripted"),
    "keras": (
        lambda: zipped("metadata.json", "config.json", "model.weights.h5"),
        "a Keras model",
        "KERAS_BACKEND=torch",
    ),
    "hdf5": (lambda: b"\x89HDF\r\n\x1a\n" + bytes(32), "HDF5 file (.h5)", "KERAS_BACKEND=torch"),
    "tensorflow lite": (lambda: b"\x1c\0\0\0TFL3" + bytes(32), "a TensorFlow Lite model", "torch.export.save"),
    "saved model": (
        lambda: zipped("m/saved_model.pb", "m/variables/x"),
        "a TensorFlow SavedModel",
        "torch.export.save",
    ),
    "saved_model.pb": (
        lambda: b"\x08\x01\x12\x96\xc6\x08\n\x93\x05*" + bytes(32),
        "saved_model.pb",
        "torch.export.save",
    ),
    "core ml": (lambda: b"\x08\x05\x12\xb4\x01\n\x1b\n\x05image" + bytes(32), "a Core ML model", "torch.export.save"),
    "core ml package": (
        lambda: zipped("m.mlpackage/Manifest.json", "m.mlpackage/Data/com.apple.CoreML/model.mlmodel"),
        "a Core ML package",
        "torch.export.save",
    ),
    "aotinductor": (lambda: zipped("m/data/aotinductor/model/x.so"), "that AOTInductor compiled", "torch.export.save"),
    "executorch": (lambda: b"\x1c\0\0\0ET12" + bytes(32), "an ExecuTorch program", "torch.export.save"),
    "scikit-learn": (lambda: pickle.dumps(fitted()), "a scikit-learn model", "torch module"),
    "joblib": (lambda: dumped(0), "a scikit-learn model", "torch module"),
    "joblib, compressed": (lambda: dumped(3), "a scikit-learn model", "torch module"),
    "xgboost": (
        lambda: b"\x80\x04\x95\0\0\0\0\0\0\0\0\x8c\x0cxgboost.core\x94",
        "gradient-boosted trees",
        "torch module",
    ),
    "npz": (lambda: zipped("a.npy", "b.npy"), "numpy arrays (.npz)", "safetensors"),
    "npy": (lambda: b"\x93NUMPY\1\0" + bytes(32), "a numpy array (.npy)", "safetensors"),
    "git lfs": (
        lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:0",
        "a pointer of Git LFS",
        "git lfs pull",
    ),
    "page": (lambda: b"\n<!DOCTYPE html><html>", "a web page", "Download the model again"),
    "openvino": (
        lambda: b'<?xml version="1.0"?>\n<net name="x" version="11">',
        "an OpenVINO network",
        "torch.export.save",
    ),
    "tensorrt": (lambda: b"ftrt" + bytes(32), "a TensorRT engine", "torch.export.save"),
    "config.json": (lambda: b'{\n  "model_type": "bert"\n}', "a JSON text", "tar -chf model.tar"),
    "a request": (lambda: b'{"model": "model.pt2"}', "a JSON text", "curl -X POST -T FILE"),
    "an empty object": (lambda: b"{}", "a JSON text", "curl -X POST -T FILE"),
    "pickle": (lambda: pickle.dumps({"a": 1}), "a pickle", "torch.export.save"),
    "text": (lambda: b"hello, world, this is a model", "not a torch.export archive", "torch.export.save"),
    "zip": (lambda: zipped("a/b"), "an archive without models/model.json", "torch.export.save"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_model_of_another_kind_is_named(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make, what, remedy = FILES[name]
    (tmp_path / "model").write_bytes(make())
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Invalid) as refusal:
        read_model(tmp_path / "model", Limits())
    assert refusal.value.code == "model_format_unsupported"
    assert what in refusal.value.detail
    assert remedy in refusal.value.remedy


def saved(value: object, *, zipped: bool = True) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, _use_new_zipfile_serialization=zipped)
    return buffer.getvalue()


def tar_of(name: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo(name))
    return buffer.getvalue()


DATASETS: dict[str, tuple[Callable[[], bytes], str, str]] = {
    "a program": (lambda: zipped("m/models/model.json"), "a program of torch.export", "POST /v1/models"),
    "a folder": (lambda: tar_of("config.json"), "a tar", "POST /v1/models"),
    "torch.save": (lambda: saved({"x": torch.ones(2)}), "as torch.save writes it", "save_file"),
    "torch.save of old": (lambda: saved({"x": torch.ones(2)}, zipped=False), "as torch.save writes it", "save_file"),
    "text": (lambda: b"a,b\n1,2\n", "is not safetensors", "save_file"),
}


@pytest.mark.parametrize("name", DATASETS)
def test_a_model_in_place_of_samples_is_named(tmp_path: Path, name: str) -> None:
    make, what, remedy = DATASETS[name]
    (tmp_path / "data").write_bytes(make())
    with pytest.raises(Invalid) as refusal:
        read("dataset", tmp_path / "data", Limits(), "")
    assert refusal.value.code == "dataset_invalid"
    assert what in refusal.value.detail
    assert remedy in refusal.value.remedy


def test_samples_with_a_header_of_any_length_are_never_taken_for_a_model(tmp_path: Path) -> None:
    for letters in range(1, 257):  # the file begins with the header's length: one is 0x80, as a pickle's first byte
        (tmp_path / "data").write_bytes(safetensors(**{"x" * letters: ("F32", [1, 1])}))
        read("dataset", tmp_path / "data", Limits(), "")


def test_what_is_taken_is_never_taken_for_another_kind(tmp_path: Path) -> None:
    assert read_model(convolutional().export(tmp_path / "model.pt2"), Limits()).facts.format == "pt2"
    torch.save({"sklearn": torch.ones(2)}, tmp_path / "model.pt")
    assert read_model(tmp_path / "model.pt", Limits()).facts.format == "safetensors"
    torch.save({"sklearn.x": torch.ones(2)}, tmp_path / "model.pt", _use_new_zipfile_serialization=False)
    assert read_model(tmp_path / "model.pt", Limits()).facts.format == "safetensors"
