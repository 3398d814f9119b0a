"""Safetensors files with a header in a fixed order: same tensors and metadata in, same bytes out; and their sum."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor


def save_tensors(tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, object]) -> None:
    """Write contiguous tensors, and each value of `metadata` as JSON. Raises OSError when the disk doesn't take it."""
    save_file(dict(tensors), path, {key: _json(value) for key, value in metadata.items()})
    _sort_header(path)


class Digest:
    """Sha256 over named tensors: name, dtype, shape and bytes of each."""

    def __init__(self) -> None:
        self._sha256 = hashlib.sha256()

    def add_text(self, text: str) -> None:
        """Take a line in."""
        self._sha256.update(f"{text}\n".encode())

    def add(self, name: str, tensor: Tensor) -> None:
        """Take a tensor of any dtype and shape in."""
        self.add_text(f"{name} {tensor.dtype} {list(tensor.shape)}")
        flat = tensor.detach().cpu().contiguous().flatten()
        if flat.numel():
            self._sha256.update(flat.view(torch.uint8).numpy().data)

    @property
    def hex(self) -> str:
        """Of everything so far."""
        return self._sha256.hexdigest()


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
