import json
from pathlib import Path
from typing import Any

import pytest

from app.errors import Invalid
from app.intake.facts import Samples, Tensor
from app.intake.limits import Limits
from app.intake.tensors import MAX_HEADER_BYTES, read_samples
from tests.factories import safetensors, with_header
from tests.networks import attention

X = {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}
Y = {"dtype": "F32", "shape": [2], "data_offsets": [24, 32]}


def read(folder: Path, data: bytes) -> Samples:
    path = folder / "data.safetensors"
    path.write_bytes(data)
    return read_samples(path, Limits()).facts


def test_a_file_that_safetensors_wrote_is_read(tmp_path: Path) -> None:
    samples = read_samples(attention(samples=8).save_dataset(tmp_path / "data.safetensors"), Limits()).facts
    assert samples == Samples(8, (Tensor("ids", "int64", (8, 5)), Tensor("mask", "float32", (8, 5))))


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
        ({"x": {**X, "data_offsets": [24, 0]}}, 24, "growing"),
        ({"x": {**X, "data_offsets": [0]}}, 24, "growing"),
        ({"x": 1}, 24, "growing"),
        ({"../x\0": X}, 24, "letters, digits"),
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
        read_samples(path, Limits())


def test_a_key_twice_is_refused(tmp_path: Path) -> None:
    x = json.dumps(X)
    with pytest.raises(Invalid, match="twice"):
        read(tmp_path, with_header(f'{{"x": {x}, "x": {x}}}'.encode(), bytes(24)))


def test_tensors_of_zeros_are_read(tmp_path: Path) -> None:
    samples = read(tmp_path, safetensors(b=("BOOL", [3]), a=("I64", [3, 2])))
    assert samples == Samples(3, (Tensor("a", "int64", (3, 2)), Tensor("b", "bool", (3,))))
