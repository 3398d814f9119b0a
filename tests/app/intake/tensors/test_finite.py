import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from app.intake.limits import CHUNK_BYTES
from app.intake.tensors.finite import first_invalid_value, index_of
from tests.app.intake.mutations import SETTINGS

FLOATS = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32, "float64": torch.float64}


def bytes_of(tensor: torch.Tensor) -> bytes:
    return tensor.view(torch.uint8).numpy().tobytes()


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("odd", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("place", [0, 17, 99])
def test_the_first_invalid_value_is_found(dtype: str, odd: float, place: int) -> None:
    tensor = torch.zeros(100, dtype=FLOATS[dtype])
    tensor[place] = odd
    tensor[99] = odd
    assert first_invalid_value(dtype, [bytes_of(tensor)]) == place


@pytest.mark.parametrize("dtype", FLOATS)
def test_the_largest_and_smallest_numbers_are_finite(dtype: str) -> None:
    info = torch.finfo(FLOATS[dtype])
    tensor = torch.tensor([info.max, info.min, info.tiny, info.smallest_normal, -0.0, 1.5], dtype=FLOATS[dtype])
    assert first_invalid_value(dtype, [bytes_of(tensor)]) is None


@pytest.mark.parametrize("dtype", FLOATS)
def test_an_index_counts_all_chunks_before(dtype: str) -> None:
    tensor = torch.full((7,), torch.finfo(FLOATS[dtype]).max, dtype=FLOATS[dtype])
    tensor[5] = float("nan")
    data = bytes_of(tensor)
    width = len(data) // 7
    assert first_invalid_value(dtype, [data[: 3 * width], data[3 * width :]]) == 5


@SETTINGS
@given(data=st.binary(min_size=8, max_size=800), dtype=st.sampled_from(["<f2", "<f4", "<f8"]))
def test_numpy_finds_the_same(data: bytes, dtype: str) -> None:
    values = np.frombuffer(data[: len(data) // 8 * 8].replace(b"a", b"\xff").replace(b"b", b"\x7f"), dtype)
    odd = np.flatnonzero(~np.isfinite(values))
    expected = int(odd[0]) if len(odd) else None
    assert first_invalid_value(values.dtype.name, [values.tobytes()]) == expected


def test_every_bfloat16_and_float16_is_judged_as_torch_judges_it() -> None:
    everything = torch.arange(2**16, dtype=torch.int32).to(torch.uint16)
    for name in ("float16", "bfloat16"):
        values = everything.view(FLOATS[name])
        found = [first_invalid_value(name, [bytes_of(value)]) is None for value in values.unsqueeze(1)]
        assert found == torch.isfinite(values).tolist()


def test_a_bool_is_zero_or_one() -> None:
    assert first_invalid_value("bool", [b"\0\1\1\0"]) is None
    assert first_invalid_value("bool", [b"\0\1\2\0"]) == 2


def test_integers_are_not_read() -> None:
    def chunks() -> object:
        raise AssertionError
        yield b""

    assert first_invalid_value("int64", chunks()) is None  # type: ignore[arg-type]


def test_a_chunk_holds_whole_elements() -> None:
    assert CHUNK_BYTES % 8 == 0


def test_a_flat_index_becomes_one_of_each_dimension() -> None:
    shape = (3, 1, 5, 2)
    for flat in range(30):
        assert index_of(flat, shape) == [int(i) for i in np.unravel_index(flat, shape)]
    assert index_of(0, ()) == []
