"""Safetensors files with a header in a fixed order: same tensors and metadata in, same bytes out."""

import json
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor


def save_tensors(tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, object]) -> None:
    """Write contiguous tensors, and each value of `metadata` as JSON. Raises OSError when the disk doesn't take it."""
    save_file(dict(tensors), path, {key: _json(value) for key, value in metadata.items()})
    _sort_header(path)


def _json(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _sort_header(path: Path) -> None:
    """Order the header's keys in place: the library writes metadata in the order of a hash table, another each time."""
    with path.open("r+b") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        canonical = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode().ljust(length)
        if len(canonical) != length:
            raise ValueError("the header changed its length")
        file.seek(8)
        file.write(canonical)
