"""A file of weights is read in blocks, and only when its header is true."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.weight_files import transformer
from zeropoint.errors import InvalidModel
from zeropoint.files.block_reader import open_tensors, spans


def test_blocks_are_the_rows_in_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zeropoint.files.block_reader.BLOCK_VALUES", 100)
    tensors = transformer() | {"scalar": torch.tensor(2.5), "empty": torch.empty(0, 3), "wide": torch.randn(2, 300)}
    save_file(tensors, tmp_path / "file")
    found = open_tensors(tmp_path / "file")
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        blocks = list(found[name].blocks())
        assert all(block.numel() <= max(100, tensor[:1].numel() if tensor.dim() else 1) for block in blocks)
        assert torch.equal(torch.cat(blocks) if len(blocks) > 1 else found[name].whole(), tensor), name
        assert torch.equal(found[name].whole(), tensor)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((), [(0, 1)]),
        ((0, 3), []),
        ((3, 0), [(0, 3)]),
        ((5, 40), [(0, 2), (2, 4), (4, 5)]),
        ((2, 101), [(0, 1), (1, 2)]),
    ],
)
def test_a_block_has_whole_rows(
    monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...], expected: list[tuple[int, int]]
) -> None:
    monkeypatch.setattr("zeropoint.files.block_reader.BLOCK_VALUES", 100)
    assert spans(shape) == expected


@pytest.mark.parametrize(
    "change",
    [
        lambda _: b"hello",
        lambda _: b"",
        lambda data: data[:-1],
        lambda data: data.replace(b'"BF16"', b'"BF61"'),
        lambda data: data.replace(b"[100,64]", b"[100,65]"),
        lambda data: data.replace(b"[100,64]", b"[-10,64]"),
        lambda data: data.replace(b'"dtype"', b'"dtyp_"'),
        lambda data: (2**40).to_bytes(8, "little") + data[8:],
        lambda _: (7).to_bytes(8, "little") + b"[" * 7,
    ],
)
def test_a_header_that_is_not_true_is_refused(tmp_path: Path, change: Callable[[bytes], bytes]) -> None:
    path = tmp_path / "file"
    save_file(transformer(), path)
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(InvalidModel) as refusal:
        open_tensors(path)
    assert refusal.value.code == "weights_invalid"
