"""Files are written as their tensors come: whole, aligned, the same each time, and without a second copy in memory."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from tests.servers import ROOT
from zeropoint.files.safetensors import CODES, save_tensors
from zeropoint.files.stream_writer import ShardWriter, TensorWriter

DTYPES = [dtype for dtype in CODES if dtype != torch.complex64]


def of_all_kinds() -> dict[str, Tensor]:
    """One of each dtype, of a size that would put the next one out of place; and those without dimension or values."""
    tensors = {str(dtype): torch.ones(3).to(dtype) for dtype in DTYPES}
    return tensors | {"scalar": torch.tensor(7), "nothing": torch.empty(0, 4), "turned": torch.arange(6.0).view(2, 3).T}


def header(path: Path) -> dict[str, Any]:
    data = path.read_bytes()
    return dict(json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")]))


def written(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> Path:
    with TensorWriter(path.parent) as writer:
        for name, tensor in tensors.items():
            writer.add(name, tensor)
        writer.finish(path, metadata)
    return path


def require_equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape)
        assert found[name].contiguous().view(-1).tolist() == tensor.contiguous().view(-1).tolist(), name


def save(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> Path:
    save_tensors(tensors, path, {key: json.loads(value) for key, value in metadata.items()})
    return path


@pytest.mark.parametrize("write", [written, save])
def test_the_library_reads_what_was_written(
    write: Callable[[Path, dict[str, Tensor], dict[str, str]], Path], tmp_path: Path
) -> None:
    path = write(tmp_path / "model.safetensors", of_all_kinds(), {"b": '"x"', "a": "[1]"})
    require_equal(load_file(path), of_all_kinds())
    with safe_open(path, framework="pt") as file:
        assert file.metadata() == {"b": '"x"', "a": "[1]"}
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


@pytest.mark.parametrize("write", [written, save])
def test_every_tensor_is_aligned(
    write: Callable[[Path, dict[str, Tensor], dict[str, str]], Path], tmp_path: Path
) -> None:
    path = write(tmp_path / "model.safetensors", of_all_kinds(), {})
    length = int.from_bytes(path.read_bytes()[:8], "little")
    assert length % 8 == 0
    for name, tensor in of_all_kinds().items():
        assert header(path)[name]["data_offsets"][0] % tensor.element_size() == 0, name


def test_same_in_is_same_out(tmp_path: Path) -> None:
    first = written(tmp_path / "a", of_all_kinds(), {"b": "2", "a": "1"}).read_bytes()
    assert written(tmp_path / "b", of_all_kinds(), {"a": "1", "b": "2"}).read_bytes() == first
    in_order = dict(sorted(of_all_kinds().items()))
    first = written(tmp_path / "c", in_order, {"b": "2", "a": "1"}).read_bytes()
    assert save(tmp_path / "d", of_all_kinds(), {"a": "1", "b": "2"}).read_bytes() == first


def test_a_tensor_comes_in_blocks(tmp_path: Path) -> None:
    whole = torch.arange(12.0).view(4, 3)
    with TensorWriter(tmp_path) as writer:
        writer.stream("x", torch.float32, (4, 3), iter([whole[:1], whole[1:3], whole[3:]]))
        writer.finish(tmp_path / "file", {})
    require_equal(load_file(tmp_path / "file"), {"x": whole})


@pytest.mark.parametrize(
    ("shape", "blocks", "says"),
    [
        ((4, 3), [torch.ones(3, 3)], "36 bytes in a tensor of 48"),
        ((2,), [torch.ones(2, dtype=torch.int32)], "int32 in a tensor of torch.float32"),
    ],
)
def test_blocks_are_what_was_announced(shape: tuple[int, ...], blocks: list[Tensor], says: str, tmp_path: Path) -> None:
    with TensorWriter(tmp_path) as writer, pytest.raises(ValueError, match=says):
        writer.stream("x", torch.float32, shape, blocks)


def test_a_name_is_written_once(tmp_path: Path) -> None:
    with TensorWriter(tmp_path) as writer:
        writer.add("x", torch.ones(1))
        with pytest.raises(ValueError, match="x is there already"):
            writer.add("x", torch.ones(2))


def test_what_is_small_enough_is_one_file_without_index(tmp_path: Path) -> None:
    with ShardWriter(tmp_path, 64, {"format": "pt"}) as writer:
        writer.add("x", torch.ones(16))
        writer.finish()
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]
    with safe_open(tmp_path / "model.safetensors", framework="pt") as file:
        assert file.metadata() == {"format": "pt"}


def test_shards_hold_no_more_than_was_asked_unless_a_tensor_does(tmp_path: Path) -> None:
    tensors = {name: torch.arange(length) for name, length in zip("abcde", (20, 4, 4, 1, 2), strict=True)}
    with ShardWriter(tmp_path, 64, {"format": "pt"}) as writer:
        for name, tensor in tensors.items():
            writer.add(name, tensor)
        with pytest.raises(ValueError, match="a is there already"):
            writer.add("a", torch.ones(1))
        writer.finish()
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    names = [f"model-{number:05}-of-00003.safetensors" for number in (1, 2, 3)]
    assert index["weight_map"] == dict(zip("abcde", (names[0], names[1], names[1], names[2], names[2]), strict=True))
    assert index["metadata"]["total_size"] == 8 * 31
    assert sorted(path.name for path in tmp_path.iterdir()) == [*names, "model.safetensors.index.json"]
    require_equal({k: v for name in names for k, v in load_file(tmp_path / name).items()}, tensors)


def test_no_second_copy_is_held(tmp_path: Path) -> None:
    program = """
import resource, sys, torch
from pathlib import Path
from zeropoint.files.safetensors import save_tensors
tensors = {str(number): torch.ones(2**22) for number in range(6)}  # 16 MiB each
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
before = peak()
save_tensors(tensors, Path(sys.argv[1]), {})
print(peak() - before)
"""
    command = [sys.executable, "-c", program, str(tmp_path / "file")]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    assert int(done.stdout) < 32
