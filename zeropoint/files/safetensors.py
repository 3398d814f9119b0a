"""Safetensors files, written tensor by tensor: same tensors and metadata in, same bytes out; and sums over tensors.

    8 bytes: length of the header · the header: JSON, `__metadata__` first, padded to a multiple of 8 · tensors

The library's own `save_file` makes a second copy of every tensor before it writes the first, and puts the metadata in
the order of a hash table, another each time.
"""

import hashlib
import json
import math
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

CODES: Mapping[torch.dtype, str] = {
    **{torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"},
    **{torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.bool: "BOOL"},
    **{torch.uint64: "U64", torch.uint32: "U32", torch.uint16: "U16", torch.uint8: "U8"},
    **{torch.float8_e4m3fn: "F8_E4M3", torch.float8_e5m2: "F8_E5M2", torch.complex64: "C64"},
}
"""What the format calls a dtype."""


COPY_BYTES = 2**20


@dataclass(frozen=True)
class TensorEntry:
    """A tensor as a header describes it."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        """The bytes of its values."""
        return math.prod(self.shape) * self.dtype.itemsize


def save_tensors(tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, object], room: int = 0) -> None:
    """Write tensors, and each value of `metadata` as JSON; a tensor that isn't contiguous takes its size of memory.

    `room`: bytes to leave free in the header, for `replace_metadata`. Larger elements come first, so that all are
    aligned. Raises OSError when the disk doesn't take it.
    """
    ordered = sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0]))
    with path.open("wb") as file:
        entries = [TensorEntry(name, tensor.dtype, tuple(tensor.shape)) for name, tensor in ordered]
        file.write(header_of(entries, in_json(metadata), room))
        for _, tensor in ordered:
            write_values(tensor, file)


def replace_metadata(path: Path, metadata: Mapping[str, str]) -> None:
    """Replace a file's metadata; the tensors keep their bytes and, if the header has room, their places.

    Without room the file is copied once. Raises OSError.
    """
    with path.open("r+b") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        header["__metadata__"] = dict(sorted(metadata.items()))
        text = _as_text(header)
        if len(text) <= length:
            file.seek(8)
            file.write(text + b" " * (length - len(text)))
            return
        copy = path.with_name(f"{path.name}.new")
        with copy.open("wb") as target:
            target.write(_framed(text))
            file.seek(8 + length)
            shutil.copyfileobj(file, target, COPY_BYTES)
    copy.replace(path)


def header_of(entries: Iterable[TensorEntry], metadata: Mapping[str, str], room: int = 0) -> bytes:
    """Return the header of a file whose tensors follow one another in this order, with `room` bytes of spaces.

    Raises KeyError for a dtype that the format doesn't have.
    """
    header: dict[str, object] = {"__metadata__": dict(sorted(metadata.items()))}
    free = 0
    for entry in entries:
        places = [free, free + entry.bytes]
        header[entry.name] = {"dtype": CODES[entry.dtype], "shape": entry.shape, "data_offsets": places}
        free += entry.bytes
    return _framed(_as_text(header) + b" " * room)


def _as_text(header: Mapping[str, object]) -> bytes:
    return json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()


def _framed(text: bytes) -> bytes:
    """Return the length and the text, padded so that tensors begin at a multiple of 8."""
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def in_json(metadata: Mapping[str, object]) -> dict[str, str]:
    """Return each value as JSON in one fixed form. Raises ValueError for NaN and infinity."""
    return {
        key: json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
        for key, value in metadata.items()
    }


def write_values(values: Tensor, file: BinaryIO) -> None:
    """Append the bytes of a tensor of any dtype, shape and device."""
    file.write(_bytes(values))


class Digest:
    """Sha256 over named tensors: name, dtype, shape and bytes of each."""

    def __init__(self) -> None:
        self._sha256 = hashlib.sha256()

    def add_text(self, text: str) -> None:
        """Add a line of text."""
        self._sha256.update(f"{text}\n".encode())

    def add(self, name: str, tensor: Tensor) -> None:
        """Add a tensor of any dtype and shape."""
        self.add_blocks(name, tensor.dtype, tuple(tensor.shape), [tensor])

    def add_blocks(self, name: str, dtype: torch.dtype, shape: tuple[int, ...], blocks: Iterable[Tensor]) -> None:
        """Add a tensor block by block: however it is cut, the sum is that of the whole tensor."""
        self.add_text(f"{name} {dtype} {list(shape)}")
        for block in blocks:
            self._sha256.update(_bytes(block))

    @property
    def hex(self) -> str:
        """The sum over everything added so far."""
        return self._sha256.hexdigest()


def _bytes(tensor: Tensor) -> memoryview:
    flat = tensor.detach().cpu().contiguous().flatten()
    return memoryview(flat.view(torch.uint8).numpy().data) if flat.numel() else memoryview(b"")
