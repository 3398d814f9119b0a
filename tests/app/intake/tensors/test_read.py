import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load, save_file

from app.errors import Invalid
from app.intake.facts import DatasetInfo, Tensor, Weights
from app.intake.limits import CHUNK_BYTES
from app.intake.tensors.read import Plan, name_for, plan_samples, plan_weights
from app.intake.tensors.safetensors import MAX_HEADER_BYTES
from tests.factories import safetensors, with_header
from tests.networks import attention

X = {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}
Y = {"dtype": "F32", "shape": [2], "data_offsets": [24, 32]}
MAX_BYTES = 2**30


def read(folder: Path, data: bytes) -> DatasetInfo:
    path = folder / "data.safetensors"
    path.write_bytes(data)
    return plan_samples(path, MAX_BYTES).facts


def fresh(plan: Plan[Any]) -> bytes:
    target = io.BytesIO()
    plan.write(target)
    return target.getvalue()


def test_a_file_that_safetensors_wrote_is_read(tmp_path: Path) -> None:
    samples = plan_samples(attention(samples=8).save_dataset(tmp_path / "data.safetensors"), MAX_BYTES).facts
    assert samples == DatasetInfo(8, (Tensor("ids", "int64", (8, 5)), Tensor("mask", "float32", (8, 5))))


def test_metadata_is_not_a_tensor(tmp_path: Path) -> None:
    data = with_header({"__metadata__": {"made": "by hand"}, "x": X}, bytes(24))
    assert read(tmp_path, data).tensors == (Tensor("x", "float32", (2, 3)),)


@pytest.mark.parametrize(
    ("header", "body", "why"),
    [
        ({}, 0, "0 tensors"),
        ([], 0, "not an object"),
        (b"{", 0, "not valid JSON"),
        ({"x": X, "y": {**Y, "data_offsets": [20, 28]}}, 32, "y: its bytes begin at 20, expected 24"),
        ({"x": X, "y": {**Y, "data_offsets": [28, 36]}}, 36, "y: its bytes begin at 28, expected 24"),
        ({"x": X}, 25, "take 24 bytes and the file has 25"),
        ({"x": X}, 23, "take 24 bytes and the file has 23"),
        ({"x": {**X, "shape": [2, 4]}}, 24, r"float32 \[2, 4\] takes 32 bytes, the file has 24"),
        ({"x": {**X, "shape": [2**40, 2**40]}}, 24, "takes"),
        ({"x": {**X, "shape": [2, -3]}}, 24, "sizes"),
        ({"x": {**X, "shape": [2, 3.0]}}, 24, "sizes"),
        ({"x": {**X, "shape": [2, True]}}, 24, "sizes"),
        ({"x": {**X, "shape": "2"}}, 24, "sizes"),
        ({"x": {**X, "dtype": "F4"}}, 24, "dtype"),
        ({"x": {**X, "dtype": ["F32"]}}, 24, "dtype"),
        ({"x": {**X, "data_offsets": [24, 0]}}, 24, "increasing"),
        ({"x": {**X, "data_offsets": [0]}}, 24, "increasing"),
        ({"x": 1}, 24, "increasing"),
        ({"../x\0": X}, 24, "a name has at most 256 characters"),
        ({"x": {"dtype": "F32", "shape": [], "data_offsets": [0, 4]}}, 4, "counts samples"),
        ({"x": {"dtype": "F32", "shape": [0, 3], "data_offsets": [0, 0]}}, 0, "counts samples"),
        ({"x": X, "y": {**Y, "shape": [1, 2]}}, 32, "x has 2, y has 1"),
    ],
)
def test_a_header_that_is_not_true_is_refused(tmp_path: Path, header: Any, body: int, why: str) -> None:
    with pytest.raises(Invalid, match=why) as refusal:
        read(tmp_path, with_header(header, bytes(body)))
    assert refusal.value.code == "dataset_invalid"


@pytest.mark.parametrize("data", [b"", b"1234567", b"PK\3\4" + bytes(100), b"\xff" * 8, bytes(8)])
def test_another_kind_of_file_is_refused(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(Invalid):
        read(tmp_path, data)


def test_a_header_over_the_limit_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "data.safetensors"
    with path.open("wb") as file:
        file.write((MAX_HEADER_BYTES + 1).to_bytes(8, "little"))
        file.truncate(2 * MAX_HEADER_BYTES)
    with pytest.raises(Invalid, match="not safetensors"):
        plan_samples(path, MAX_BYTES)


def test_a_key_twice_is_refused(tmp_path: Path) -> None:
    x = json.dumps(X)
    with pytest.raises(Invalid, match="twice"):
        read(tmp_path, with_header(f'{{"x": {x}, "x": {x}}}'.encode(), bytes(24)))


def test_tensors_of_zeros_are_read(tmp_path: Path) -> None:
    samples = read(tmp_path, safetensors(b=("BOOL", [3]), a=("I64", [3, 2])))
    assert samples == DatasetInfo(3, (Tensor("a", "int64", (3, 2)), Tensor("b", "bool", (3,))))


def saved(folder: Path, **tensors: torch.Tensor) -> Path:
    path = folder / "data.safetensors"
    save_file(tensors, path)
    return path


def test_a_plan_writes_what_it_checked(tmp_path: Path) -> None:
    tensors = {"y": torch.randn(3, CHUNK_BYTES), "x": torch.tensor([True, False, True])}
    plan = plan_samples(saved(tmp_path, **tensors), MAX_BYTES)
    assert plan.facts == DatasetInfo(3, (Tensor("x", "bool", (3,)), Tensor("y", "float32", (3, CHUNK_BYTES))))
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in load(fresh(plan)).items())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_the_first_non_finite_sample_is_named(tmp_path: Path, dtype: torch.dtype) -> None:
    x = torch.zeros(2, 3, CHUNK_BYTES // 4, dtype=dtype)
    x[1, 2, 7] = float("nan")
    x[1, 2, 8] = float("inf")
    with pytest.raises(Invalid, match=r"Tensor 'x' holds NaN or infinity, first at index \[1, 2, 7\]") as refusal:
        plan_samples(saved(tmp_path, x=x, a=torch.ones(2)), MAX_BYTES)
    assert refusal.value.code == "non_finite_samples"


def test_a_bool_that_is_neither_zero_nor_one_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "data.safetensors"
    path.write_bytes(with_header({"x": {"dtype": "BOOL", "shape": [2, 2], "data_offsets": [0, 4]}}, b"\0\1\1\2"))
    with pytest.raises(Invalid, match=r"neither 0 nor 1, first at index \[1, 1\]") as refusal:
        plan_samples(path, MAX_BYTES)
    assert refusal.value.code == "dataset_invalid"


def test_weights_have_any_shapes(tmp_path: Path) -> None:
    path = saved(tmp_path, scale=torch.tensor(2.0), w=torch.ones(2, 3), none=torch.zeros(0))
    expected = (Tensor("none", "float32", (0,)), Tensor("scale", "float32", ()), Tensor("w", "float32", (2, 3)))
    assert plan_weights(path).facts == Weights(expected, 7)


def test_non_finite_weights_are_named(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match=r"'scale'.*index \[\]") as refusal:
        plan_weights(saved(tmp_path, scale=torch.tensor(float("-inf"))))
    assert refusal.value.code == "non_finite_weights"


@pytest.mark.parametrize(
    "data", [b"", b"\x80\x02}q\x00.", with_header({}), with_header({"x": {**X, "shape": [2, 4]}}, bytes(24))]
)
def test_what_is_no_weights_is_refused_as_weights(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(data)
    with pytest.raises(Invalid) as refusal:
        plan_weights(path)
    assert refusal.value.code == "weights_invalid"


def test_numpy_files_become_safetensors(tmp_path: Path) -> None:
    x, y = np.random.default_rng(0).standard_normal((3, 70_000)), np.array([True, False, True])
    np.save(tmp_path / "x.npy", x)
    np.savez(tmp_path / "data.npz", x=x, y=y)
    plan = plan_samples(tmp_path / "data.npz", MAX_BYTES)
    alone = plan_samples(tmp_path / "x.npy", MAX_BYTES, name="pixels")
    assert torch.equal(load(fresh(alone))["pixels"], torch.from_numpy(x))
    assert plan.facts == DatasetInfo(3, (Tensor("x", "float64", (3, 70_000)), Tensor("y", "bool", (3,))))
    assert torch.equal(load(fresh(plan))["y"], torch.from_numpy(y))


@pytest.mark.parametrize("suffix", ["npy", "npz", "safetensors"])
def test_every_format_gives_the_same_bytes(tmp_path: Path, suffix: str) -> None:
    x = np.arange(12, dtype="f4").reshape(3, 4)
    np.save(tmp_path / "x.npy", x)
    np.savez_compressed(tmp_path / "x.npz", x=x)
    save_file({"x": torch.from_numpy(x)}, tmp_path / "x.safetensors")
    plans = [plan_samples(tmp_path / name, MAX_BYTES) for name in (f"x.{suffix}", "x.npy")]
    assert fresh(plans[0]) == fresh(plans[1])


def test_non_finite_samples_of_numpy_are_named(tmp_path: Path) -> None:
    x = np.zeros((4, 70_000))
    x[3, 69_999] = np.inf
    np.savez_compressed(tmp_path / "data.npz", x=x)
    with pytest.raises(Invalid, match=r"'x'.*index \[3, 69999\]"):
        plan_samples(tmp_path / "data.npz", MAX_BYTES)


@pytest.mark.parametrize("shape", [(), (0, 3)])
def test_an_npy_needs_samples(tmp_path: Path, shape: tuple[int, ...]) -> None:
    np.save(tmp_path / "x.npy", np.zeros(shape))
    with pytest.raises(Invalid, match="counts samples"):
        plan_samples(tmp_path / "x.npy", MAX_BYTES)


@pytest.mark.parametrize(
    ("filename", "name"),
    [
        ("pixels.npy", "pixels"),
        ("input_ids.npy", "input_ids"),
        ("_1.npy", "_1"),
        (None, "x"),
        ("", "x"),
        ("1.npy", "x"),
        ("my samples.npy", "x"),
        ("../pixels.npy", "x"),
        ("pixels.npz", "x"),
        ("é.npy", "x"),
        ("a" * 65 + ".npy", "x"),
        ("pixels.npy\n", "x"),
    ],
)
def test_an_npy_is_named_like_its_file(filename: str | None, name: str) -> None:
    assert name_for(filename) == name
