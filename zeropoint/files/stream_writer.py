"""Writes safetensors files as their tensors come, holding none: for results that are larger than memory.

A header tells where each tensor lies and what the results are, so it is known last and stands first. Until then bytes
wait in scratch files, one for each size of element; larger elements come first in the file, so that all are aligned.
Same tensors in the same order in, same bytes out.
"""

import json
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Self

import torch
from torch import Tensor

from zeropoint.files.safetensors import TensorEntry, header_of, write_values
from zeropoint.schema.checkpoint_files import INDEX_FILE, WEIGHTS_FILE, shard_name

CHUNK_BYTES = 2**20


class TensorWriter:
    """One file. Scratch files lie in a folder within `folder`, and are removed when the `with` block ends."""

    def __init__(self, folder: Path) -> None:
        self._scratch = TemporaryDirectory(dir=folder)
        self._entries: dict[str, TensorEntry] = {}
        self.bytes = 0
        """The bytes of all tensors so far."""
        self.room = 0
        """Bytes to leave free in the header."""

    def add(self, name: str, tensor: Tensor) -> None:
        """Append a tensor. Raises ValueError when there is one of that name, OSError when the disk is full."""
        self.stream(name, tensor.dtype, tuple(tensor.shape), [tensor])

    def stream(self, name: str, dtype: torch.dtype, shape: tuple[int, ...], blocks: Iterable[Tensor]) -> None:
        """Append a tensor that comes in blocks along its first dimension. Raises what `add` raises."""
        entry = TensorEntry(name, dtype, shape)
        if name in self._entries:
            raise ValueError(f"{name} is there already")
        written = 0
        with self._file(dtype.itemsize).open("ab") as file:
            for block in blocks:
                if block.dtype != dtype:
                    raise ValueError(f"{name}: a block of {block.dtype} in a tensor of {dtype}")
                write_values(block, file)
                written += block.numel() * block.element_size()
        if written != entry.bytes:
            raise ValueError(f"{name}: blocks of {written} bytes in a tensor of {entry.bytes}")
        self._entries[name] = entry
        self.bytes += entry.bytes

    def finish(self, path: Path, metadata: Mapping[str, str]) -> None:
        """Write the file; the scratch files are used up."""
        sizes = sorted({entry.dtype.itemsize for entry in self._entries.values()}, reverse=True)
        entries = sorted(self._entries.values(), key=lambda entry: -entry.dtype.itemsize)  # stable: as they came
        with path.open("wb") as target:
            target.write(header_of(entries, metadata, self.room))
            for size in sizes:
                with self._file(size).open("rb") as source:
                    shutil.copyfileobj(source, target, CHUNK_BYTES)
                self._file(size).unlink()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Remove what is left in the scratch folder."""
        self._scratch.cleanup()

    def _file(self, element_size: int) -> Path:
        return Path(self._scratch.name) / str(element_size)


class ShardWriter:
    """The weights of a folder: one file, or shards of at most `max_shard_bytes` of tensors each, with their index.

    A tensor larger than that has a shard of its own. Only one shard waits in scratch files at a time.
    """

    def __init__(self, folder: Path, max_shard_bytes: int, metadata: Mapping[str, str], room: int = 0) -> None:
        """Write `metadata` into every file, with `room` bytes free in its header."""
        self._folder = folder
        self._max_bytes = max_shard_bytes
        self._metadata = metadata
        self._room = room
        self._scratch = TemporaryDirectory(dir=folder)
        self._shard = self._next()
        self._shards = 0
        self._places: dict[str, int] = {}
        self._bytes = 0

    def add(self, name: str, tensor: Tensor) -> None:
        """Append a tensor. Raises what `TensorWriter.add` raises."""
        self.stream(name, tensor.dtype, tuple(tensor.shape), [tensor])

    def stream(self, name: str, dtype: torch.dtype, shape: tuple[int, ...], blocks: Iterable[Tensor]) -> None:
        """Append a tensor that comes in blocks along its first dimension. Raises what `add` raises."""
        if name in self._places:
            raise ValueError(f"{name} is there already")
        if self._shard.bytes and self._shard.bytes + TensorEntry(name, dtype, shape).bytes > self._max_bytes:
            self._end_shard()
        self._shard.stream(name, dtype, shape, blocks)
        self._places[name] = self._shards

    def finish(self) -> None:
        """Move the files into the folder under their names, which contain how many there are."""
        self._end_shard()
        count = self._shards
        files = [WEIGHTS_FILE] if count == 1 else [shard_name(number + 1, count) for number in range(count)]
        for number, file in enumerate(files):
            self._path(number).replace(self._folder / file)
        if count > 1:
            places = {name: files[number] for name, number in self._places.items()}
            index = {"metadata": {"total_size": self._bytes}, "weight_map": places}
            (self._folder / INDEX_FILE).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._shard.close()
        self._scratch.cleanup()

    def _next(self) -> TensorWriter:
        return TensorWriter(Path(self._scratch.name))

    def _end_shard(self) -> None:
        self._shard.room = self._room
        self._shard.finish(self._path(self._shards), self._metadata)
        self._shards += 1
        self._bytes += self._shard.bytes
        self._shard.close()
        self._shard = self._next()

    def _path(self, number: int) -> Path:
        return Path(self._scratch.name) / f"shard-{number}"
