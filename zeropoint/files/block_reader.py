"""A file of weights that is read block by block: only one block is in memory.

Plain reads, not the library's memory map: pages of a map stay resident while it is open, and all of its addresses count
against the limit of a job's program.
"""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zeropoint.errors import InvalidModel
from zeropoint.files.safetensors import CODES, TensorEntry

BLOCK_VALUES = 2**18
"""The most values of a block, unless a single row has more: some 10 MiB of work in float32 and float64."""

MAX_HEADER_BYTES = 100 * 10**6
"""The limit of the safetensors library."""

_DTYPES = {code: dtype for dtype, code in CODES.items()}


@dataclass(frozen=True)
class StoredTensor(TensorEntry):
    """A tensor of a file, and where its bytes begin."""

    path: Path
    start: int

    def blocks(self) -> Iterator[Tensor]:
        """Yield its values in pieces along the first dimension, one after another; a scalar in one piece."""
        with self.path.open("rb") as file:
            file.seek(self.start)
            for first, last in spans(self.shape):
                yield self._next(file, (last - first, *self.shape[1:]) if self.shape else ())

    def whole(self) -> Tensor:
        """Return all of its values."""
        with self.path.open("rb") as file:
            file.seek(self.start)
            return self._next(file, self.shape)

    def _next(self, file: BufferedReader, shape: tuple[int, ...]) -> Tensor:
        values = torch.empty(shape, dtype=self.dtype)
        if values.numel() and file.readinto(values.flatten().view(torch.uint8).numpy().data) < values.nbytes:
            raise OSError(f"{self.name}: the file ended while it was read")
        return values


def spans(shape: tuple[int, ...]) -> list[tuple[int, int]]:
    """Return first and last row (exclusive) of each block of a tensor of this shape."""
    rows, width = (shape[0], math.prod(shape[1:])) if shape else (1, 1)
    step = max(1, BLOCK_VALUES // max(1, width))
    return [(first, min(first + step, rows)) for first in range(0, rows, step)]


def open_tensors(path: Path) -> dict[str, StoredTensor]:
    """Return the tensors of a file by name, in the order of their bytes. Raises InvalidModel for a wrong header."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, MAX_HEADER_BYTES):
            raise _invalid("The file is not safetensors.")
        content = file.read(length)
    try:
        header: Mapping[str, Any] = json.loads(content)
        tensors = [_stored(name, entry, path, 8 + length) for name, entry in header.items() if name != "__metadata__"]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _invalid("The header of the file can't be read.") from error
    for tensor in tensors:
        if tensor.start + tensor.bytes > size:
            raise _invalid(f"Tensor {tensor.name!r} lies outside of the file.")
    return {tensor.name: tensor for tensor in sorted(tensors, key=lambda tensor: tensor.start)}


def _stored(name: str, entry: Mapping[str, Any], path: Path, body: int) -> StoredTensor:
    start, end = entry["data_offsets"]
    tensor = StoredTensor(name, _DTYPES[entry["dtype"]], tuple(entry["shape"]), path, body + start)
    if start < 0 or any(size < 0 for size in tensor.shape) or tensor.bytes != end - start:
        raise ValueError(name)
    return tensor


def _invalid(detail: str) -> InvalidModel:
    return InvalidModel("weights_invalid", detail, "Save the weights with safetensors, and upload that file.")
