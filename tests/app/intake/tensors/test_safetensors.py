import io
import json
import struct
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load, save_file

from app.errors import Invalid
from app.intake.tensors.safetensors import MAX_TENSORS, read_stored, write_stored
from tests.app.intake.mutations import SETTINGS, damaged, damaged_json, taken_or_refused
from tests.factories import with_header

HEADER = {
    "a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
    "b": {"dtype": "BOOL", "shape": [2], "data_offsets": [24, 26]},
}


def refuse(detail: str) -> Invalid:
    return Invalid("weights_invalid", detail, "")


def rewritten(path: Path) -> bytes:
    target = io.BytesIO()
    write_stored(read_stored(path, refuse), target)
    return target.getvalue()


@pytest.fixture
def tensors() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {
        "flag": torch.tensor([True, False, True]),
        "half": torch.randn(3, 1).half(),
        "brain": torch.randn(3, 2).bfloat16(),
        "wide": torch.randn(3, 40_000),
        "double": torch.randn(3).double(),
        "count": torch.arange(3),
        "nothing": torch.zeros(3, 0),
    }


def test_a_fresh_file_holds_the_same_tensors(tmp_path: Path, tensors: dict[str, torch.Tensor]) -> None:
    save_file(tensors, tmp_path / "x", metadata={"made": "by hand"})
    found = load(rewritten(tmp_path / "x"))
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], tensors[name]) for name in tensors)


def test_the_same_tensors_give_the_same_bytes(tmp_path: Path) -> None:
    """Whatever order, padding or metadata they came with."""
    first = with_header(HEADER, bytes(range(24)) + b"\1\0")
    other = {
        "__metadata__": {"x": "y"},
        "b": {"shape": [2], "dtype": "BOOL", "data_offsets": [0, 2]},
        "a": {"dtype": "F32", "data_offsets": [2, 26], "shape": [2, 3]},
    }
    second = with_header(json.dumps(other).encode() + b"  ", b"\1\0" + bytes(range(24)))
    (tmp_path / "1").write_bytes(first)
    (tmp_path / "2").write_bytes(second)
    assert rewritten(tmp_path / "1") == rewritten(tmp_path / "2")


def test_every_tensor_is_aligned_and_metadata_is_gone(tmp_path: Path, tensors: dict[str, torch.Tensor]) -> None:
    save_file(tensors, tmp_path / "x", metadata={"made": "by hand"})
    data = rewritten(tmp_path / "x")
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    assert length % 8 == 0
    assert "__metadata__" not in header
    assert list(header) == sorted(header)
    width = {"F32": 4, "F64": 8, "I64": 8, "F16": 2, "BF16": 2, "BOOL": 1}
    assert all(entry["data_offsets"][0] % width[entry["dtype"]] == 0 for entry in header.values())


@pytest.mark.parametrize("count", [MAX_TENSORS + 1, 300_000])
def test_too_many_tensors_are_refused(tmp_path: Path, count: int) -> None:
    empty = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    (tmp_path / "x").write_bytes(with_header({f"t{number}": empty for number in range(count)}))
    with pytest.raises(Invalid, match=r"at most 20000|more than 320000 values|not safetensors"):
        read_stored(tmp_path / "x", refuse)


@pytest.mark.parametrize("filler", [b"{},", b'"",', b"0,", b"[],"])
def test_a_header_of_very_many_values_is_not_parsed(tmp_path: Path, filler: bytes) -> None:
    header = b'{"x":[' + filler * 1_500_000 + b"0]}"
    (tmp_path / "x").write_bytes(with_header(header))
    with pytest.raises(Invalid, match="more than 320000 values"):
        read_stored(tmp_path / "x", refuse)


@pytest.mark.parametrize("shape", [[2**62, 4, 0], [0, 2**62, 4], [2**32, 2**32, 0]])
def test_sizes_that_no_reader_can_count_are_refused(tmp_path: Path, shape: list[int]) -> None:
    header = {"x": {"dtype": "U8", "shape": shape, "data_offsets": [0, 0]}}
    (tmp_path / "x").write_bytes(with_header(header, b""))
    with pytest.raises(Invalid, match="too large to count"):
        read_stored(tmp_path / "x", refuse)


@pytest.mark.parametrize("places", [[False, True], [0.0, 1.0], [0, 2**70], ["0", "1"], [0, 0, 1]])
def test_offsets_are_two_plain_numbers(tmp_path: Path, places: list[object]) -> None:
    header = {"x": {"dtype": "U8", "shape": [1], "data_offsets": places}}
    (tmp_path / "x").write_bytes(with_header(header, b"\1"))
    with pytest.raises(Invalid, match="increasing"):
        read_stored(tmp_path / "x", refuse)


@SETTINGS
@given(data=damaged(with_header(HEADER, bytes(26))))
def test_damaged_files_are_taken_or_refused(tmp_path: Path, data: bytes) -> None:
    taken_or_refused(rewritten, tmp_path / "x", data)


@SETTINGS
@given(header=damaged_json(HEADER), body=st.sampled_from([26, 24, 0]))
def test_damaged_headers_are_taken_or_refused(tmp_path: Path, header: bytes, body: int) -> None:
    taken_or_refused(rewritten, tmp_path / "x", with_header(header, bytes(body)))
