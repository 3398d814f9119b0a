"""Views of storages, read row by row as torch reads them."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from app.intake.limits import CHUNK_BYTES
from app.intake.tensors import strided
from app.intake.tensors.strided import StoredBytes, is_row_major, reach, row_major
from tests.app.intake.mutations import SETTINGS

DTYPES = ("uint8", "int16", "float32", "int64", "complex64", "complex128", "bfloat16")


@st.composite
def views(draw: st.DrawFn) -> tuple[torch.Tensor, torch.Tensor]:
    """A storage, and a view of it with any strides of 0 or more."""
    sizes = draw(st.lists(st.integers(0, 5), max_size=5))
    strides = draw(st.lists(st.integers(0, 40), min_size=len(sizes), max_size=len(sizes)))
    offset = draw(st.integers(0, 7))
    dtype = getattr(torch, draw(st.sampled_from(DTYPES)))
    storage = torch.arange(reach(sizes, strides, offset) + draw(st.integers(0, 3)) or 1).to(dtype)
    return storage, storage.as_strided(sizes, strides, offset)


def bytes_of(tensor: torch.Tensor) -> bytes:
    plain = tensor.view(torch.int16) if tensor.dtype == torch.bfloat16 else tensor
    data: bytes = plain.numpy().tobytes()
    return data


@settings(SETTINGS, max_examples=100)
@given(given_view=views(), before=st.integers(0, 9), block=st.integers(8, 200), big=st.booleans())
def test_any_view_is_read_as_torch_reads_it(
    tmp_path_factory: pytest.TempPathFactory,
    given_view: tuple[torch.Tensor, torch.Tensor],
    before: int,
    block: int,
    big: bool,
) -> None:
    storage, view = given_view
    held, path = bytes_of(storage), tmp_path_factory.getbasetemp() / "storage"
    word = storage.element_size() // (2 if storage.dtype.is_complex else 1)
    turned = b"".join(held[start : start + word][::-1] for start in range(0, len(held), word))
    path.write_bytes(bytes(before) + (turned if big else held) + b"after")
    stored = StoredBytes(path, before, len(held), big)
    name = str(storage.dtype).removeprefix("torch.")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(strided, "_BLOCK_BYTES", block)
        read = list(row_major(stored, name, view.shape, view.stride(), int(view.storage_offset())))
    assert b"".join(read) == bytes_of(view)
    assert all(len(chunk) % storage.element_size() == 0 for chunk in read)


def test_a_large_view_comes_in_chunks(tmp_path: Path) -> None:
    matrix = torch.rand(700, 3000)
    (tmp_path / "storage").write_bytes(bytes_of(matrix))
    stored = StoredBytes(tmp_path / "storage", 0, matrix.nbytes)
    chunks = list(row_major(stored, "float32", (3000, 700), (1, 3000), 0))
    assert max(map(len, chunks)) <= CHUNK_BYTES
    assert b"".join(chunks) == bytes_of(matrix.T)


def test_dimensions_of_one_and_of_nothing_have_any_stride() -> None:
    assert is_row_major((1, 4), (99, 1))
    assert is_row_major((3, 0), (7, 7))
    assert not is_row_major((2, 4), (1, 2))
    assert reach((3, 0), (7, 7), 99) == 0
