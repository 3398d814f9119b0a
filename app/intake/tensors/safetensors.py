"""The safetensors format: 8 bytes (header length, little endian), a JSON header, then the tensors' bytes in sequence.

Tensors are described by the header alone; bytes are read in chunks, so memory does not grow with the file.
"""

import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from app.intake.facts import Tensor
from app.intake.limits import CHUNK_BYTES
from app.intake.parsing.names import RULE, is_name
from app.intake.parsing.strict_json import Refuse, read_json
from app.intake.tensors.dtypes import BY_NAME, BY_SAFETENSORS_CODE

MAX_HEADER_BYTES = 16 * 2**20
MAX_TENSORS = 20_000
MAX_RANK = 32

"""The names of tensors; __metadata__ is what a header calls something else."""

_MAX_HEADER_VALUES = 16 * MAX_TENSORS


@dataclass(frozen=True)
class Stored:
    """A tensor and its bytes: `chunks()` yields them, little endian and row-major, CHUNK_BYTES at a time."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    chunks: Callable[[], Iterator[bytes]]

    @property
    def bytes(self) -> int:
        """Return the tensor's size in bytes."""
        return math.prod(self.shape) * BY_NAME[self.dtype].bytes

    @property
    def tensor(self) -> Tensor:
        """Return the tensor's description."""
        return Tensor(self.name, self.dtype, self.shape)


def is_countable(shape: Sequence[int], dtype: str) -> bool:
    """Return whether readers can count a tensor's bytes in 64 bits; with a size of 0 they multiply the others too."""
    return math.prod(size for size in shape if size) * BY_NAME[dtype].bytes < 2**63


def begins_safetensors(head: bytes) -> bool:
    """Return whether a file that begins with these bytes, nine or more, is meant to be safetensors."""
    return head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 2**32


def read_stored(path: Path, refuse: Refuse) -> tuple[Stored, ...]:
    """Return the tensors of a file, sorted by name; there may be none. `refuse` creates the error to raise."""
    header, body = _read_header(path, refuse)
    header.pop("__metadata__", None)
    if len(header) > MAX_TENSORS:
        raise refuse(f"The file holds {len(header)} tensors; at most {MAX_TENSORS} are read.")
    free = 0
    tensors = []
    places = {name: _offsets(name, entry, refuse) for name, entry in header.items()}
    for name, (start, end) in sorted(places.items(), key=lambda item: item[1]):
        if start != free:
            raise refuse(f"{shown(name)}: its bytes begin at {start}, expected {free}.")
        chunks = partial(read_range, path, body + start, end - start)
        tensors.append(_stored(name, header[name], chunks, refuse))
        if tensors[-1].bytes != end - start:
            raise refuse(f"{_described(tensors[-1])} takes {tensors[-1].bytes} bytes, the file has {end - start}.")
        if not is_countable(tensors[-1].shape, tensors[-1].dtype):
            raise refuse(f"{name}: its sizes are too large to count its elements.")
        free = end
    body_bytes = path.stat().st_size - body
    if free != body_bytes:
        raise refuse(f"The tensors take {free} bytes and the file has {body_bytes} for them.")
    return tuple(sorted(tensors, key=lambda stored: stored.name))


def write_stored(tensors: Iterable[Stored], target: BinaryIO) -> None:
    """Write a fresh file: no metadata, a canonical header, larger elements first so that all are aligned."""
    ordered = _ordered(tensors)
    target.write(_header_of(ordered))
    for stored in ordered:
        for chunk in stored.chunks():
            target.write(chunk)


def bytes_of_file(tensors: Iterable[Stored]) -> int:
    """Return the length of the file that `write_stored` writes."""
    ordered = _ordered(tensors)
    return len(_header_of(ordered)) + sum(stored.bytes for stored in ordered)


def _ordered(tensors: Iterable[Stored]) -> list[Stored]:
    return sorted(tensors, key=lambda stored: (-BY_NAME[stored.dtype].bytes, stored.name))


def _header_of(ordered: Iterable[Stored]) -> bytes:
    header: dict[str, Any] = {}
    free = 0
    for stored in ordered:
        code = BY_NAME[stored.dtype].safetensors_code
        places = [free, free + stored.bytes]
        header[stored.name] = {"dtype": code, "shape": stored.shape, "data_offsets": places}
        free += stored.bytes
    text = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def read_range(path: Path, start: int, size: int) -> Iterator[bytes]:
    """Yield a part of a file, CHUNK_BYTES at a time."""
    with path.open("rb") as file:
        file.seek(start)
        for done in range(0, size, CHUNK_BYTES):
            yield file.read(min(CHUNK_BYTES, size - done))


def shown(name: str) -> str:
    """Return a name from an upload, or generic words if it is unfit for a message."""
    return name if is_name(name) else "A tensor"


def _read_header(path: Path, refuse: Refuse) -> tuple[dict[str, Any], int]:
    """Return the parsed header, and the position of the first tensor's bytes."""
    size = path.stat().st_size
    with path.open("rb") as file:
        header_bytes = int.from_bytes(file.read(8), "little")
        if size < 8 or header_bytes > min(size - 8, MAX_HEADER_BYTES):
            raise refuse("The file is not safetensors, or was cut off.")
        data = file.read(header_bytes)
    header = read_json(data, lambda detail: refuse(f"The header {detail}."), _MAX_HEADER_VALUES)
    if not isinstance(header, dict):
        raise refuse("The header is not an object.")
    return header, 8 + header_bytes


def _offsets(name: str, entry: Any, refuse: Refuse) -> tuple[int, int]:
    match entry:
        case {"data_offsets": [start, end]} if _is_size(start) and _is_size(end) and start <= end:
            return start, end
    raise refuse(f"{shown(name)}: data_offsets must be two increasing numbers.")


def _stored(name: str, entry: dict[str, Any], chunks: Callable[[], Iterator[bytes]], refuse: Refuse) -> Stored:
    if not is_name(name):
        raise refuse(f"{shown(name)}: a name has {RULE}.")
    shape, code = entry.get("shape"), entry.get("dtype")
    dtype = BY_SAFETENSORS_CODE.get(code) if isinstance(code, str) else None
    if dtype is None:
        raise refuse(f"{name}: this dtype is not supported; supported are {', '.join(BY_SAFETENSORS_CODE)}.")
    if not isinstance(shape, list) or len(shape) > MAX_RANK or not all(map(_is_size, shape)):
        raise refuse(f"{name}: the shape must be a list of at most {MAX_RANK} sizes.")
    return Stored(name, dtype.name, tuple(shape), chunks)


def _described(stored: Stored) -> str:
    return f"{stored.name}: {stored.dtype} {list(stored.shape)}"


def _is_size(value: object) -> bool:
    return type(value) is int and 0 <= value < 2**63
