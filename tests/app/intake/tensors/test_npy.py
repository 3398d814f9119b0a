import io
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given

from app.errors import Invalid
from app.intake.tensors.npy import MAX_HEADER_BYTES, read_npy
from tests.app.intake.mutations import SETTINGS, damaged, taken_or_refused

PLAIN = "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }"


def npy(array: np.ndarray, version: tuple[int, int] | None = None, pickled: bool = False) -> bytes:
    target = io.BytesIO()
    np.lib.format.write_array(target, array, version=version, allow_pickle=pickled)
    return target.getvalue()


def with_header(text: str, body: bytes = bytes(24), version: int = 1) -> bytes:
    length = struct.pack("<H" if version == 1 else "<I", len(text))
    return b"\x93NUMPY" + bytes([version, 0]) + length + text.encode("utf-8") + body


def read(folder: Path, data: bytes) -> tuple[str, tuple[int, ...], bytes]:
    (folder / "x.npy").write_bytes(data)
    stored = read_npy(folder / "x.npy", "x")
    return stored.dtype, stored.shape, b"".join(stored.chunks())


DTYPES = ["?", "u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f2", "f4", "f8"]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(3,), (2, 3), (2, 1, 4, 3), (0, 2), ()])
def test_what_numpy_saved_is_read(tmp_path: Path, dtype: str, shape: tuple[int, ...]) -> None:
    array = np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(dtype)
    assert read(tmp_path, npy(array)) == (array.dtype.name, shape, array.tobytes())


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
@pytest.mark.filterwarnings("ignore:Stored array in format:UserWarning")
def test_all_versions_are_read(tmp_path: Path, version: tuple[int, int]) -> None:
    array = np.ones((2, 3), "f4")
    assert read(tmp_path, npy(array, version)) == ("float32", (2, 3), array.tobytes())


@pytest.mark.parametrize(
    "text",
    [
        PLAIN + "\n",
        "{'shape': (2, 3), 'descr': '<f4', 'fortran_order': False}",
        "{'descr':'<f4','fortran_order':False,'shape':(2,3)}",
    ],
)
def test_the_order_of_keys_and_spaces_are_free(tmp_path: Path, text: str) -> None:
    assert read(tmp_path, with_header(text))[:2] == ("float32", (2, 3))


HEADERS = {
    "an object array": ("'<f4'", "'|O'", "objects"),
    "a record": ("'<f4'", "[('a', '<f4')]", "objects or records"),
    "big-endian": ("'<f4'", "'>f4'", "big-endian"),
    "Fortran order": ("False", "True", "Fortran order"),
    "complex": ("'<f4'", "'<c8'", "dtype is not supported"),
    "text": ("'<f4'", "'<U9'", "dtype is not supported"),
    "dates": ("'<f4'", "'<M8[ns]'", "dtype is not supported"),
    "native order": ("'<f4'", "'=f4'", "dtype is not supported"),
    "a call": ("(2, 3)", "__import__('os').getcwd()", "not what numpy writes"),
    "a sum": ("(2, 3)", "(1+1, 3)", "not what numpy writes"),
    "a power": ("(2, 3)", "(9**9**9,)", "not what numpy writes"),
    "negative": ("(2, 3)", "(-2, 3)", "not what numpy writes"),
    "no tuple": ("(2, 3)", "(6)", "not what numpy writes"),
    "a long": ("(2, 3)", "(2L, 3L)", "not what numpy writes"),
    "another digit": ("(2, 3)", "(\u0662, 3)", "not what numpy writes"),
    "a size of 20 digits": ("(2, 3)", f"({10**19}, 3)", "not what numpy writes"),
    "a size of 64 bits": ("(2, 3)", f"({2**63}, 3)", "not what numpy writes"),
    "sizes beyond counting": ("(2, 3)", f"({2**62}, 4, 0)", "not what numpy writes"),
    "more than there is": ("(2, 3)", f"({2**40},)", "takes 4398046511104 bytes, the file has 24"),
    "too many dimensions": ("(2, 3)", f"({'1, ' * 40}6)", "not what numpy writes"),
    "a key twice": ("'shape'", "'descr': '<f4', 'shape'", "not what numpy writes"),
    "a key twice instead of another": ("'fortran_order': False", "'descr': '<f4'", "not what numpy writes"),
    "a key of another type": ("(2, 3)", "False", "not what numpy writes"),
    "swapped values": ("'<f4'", "False", "not what numpy writes"),
    "a missing key": ("'fortran_order': False, ", "", "not what numpy writes"),
    "another key": ("'shape'", "'x'", "not what numpy writes"),
    "parentheses": ("(2, 3)", "(" * 3000, "not what numpy writes"),
    "something after it": ("}", "} + 1", "not what numpy writes"),
}


@pytest.mark.parametrize(("old", "new", "why"), HEADERS.values(), ids=HEADERS.keys())
def test_a_header_that_numpy_would_not_write_is_refused(tmp_path: Path, old: str, new: str, why: str) -> None:
    assert old in PLAIN
    with pytest.raises(Invalid, match=why) as refusal:
        read(tmp_path, with_header(PLAIN.replace(old, new)))
    assert refusal.value.code == "dataset_invalid"


@pytest.mark.parametrize("text", ["", "{}", "1", "x" * 100, "{" * 100, "\0" * 60])
def test_a_header_that_is_no_header_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(Invalid, match="not what numpy writes"):
        read(tmp_path, with_header(text))


def test_a_pickled_array_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="Python objects"):
        read(tmp_path, npy(np.array([{}, []], dtype=object), pickled=True))


def test_fortran_order_has_its_remedy(tmp_path: Path) -> None:
    with pytest.raises(Invalid) as refusal:
        read(tmp_path, npy(np.asfortranarray(np.ones((2, 3)))))
    assert "ascontiguousarray" in refusal.value.remedy


@pytest.mark.parametrize("body", [0, 23, 25])
def test_the_bytes_must_be_there_and_no_others(tmp_path: Path, body: int) -> None:
    with pytest.raises(Invalid, match=f"takes 24 bytes, the file has {body}"):
        read(tmp_path, with_header(PLAIN, bytes(body)))


@pytest.mark.parametrize(
    "data",
    [
        b"\x93NUMPY",
        b"\x93NUMPY\4\0" + bytes(100),
        b"\x93NUMPY\1\0",
        b"\x93NUMPY\1\0\xff\xff{",
        b"\x93NUMPY\2\0\xff\xff\xff\xff{",
        with_header(PLAIN.ljust(MAX_HEADER_BYTES + 1)),
    ],
)
def test_a_header_that_is_cut_off_or_too_long_is_refused(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(Invalid):
        read(tmp_path, data)


@SETTINGS
@given(data=damaged(with_header(PLAIN)))
def test_damaged_files_are_taken_or_refused(tmp_path: Path, data: bytes) -> None:
    taken_or_refused(lambda path: list(read_npy(path, "x").chunks()), tmp_path / "x", data)
