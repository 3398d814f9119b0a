"""Reads the header of a safetensors file as a dataset: names, dtypes, shapes, and one number of samples.

A safetensors file is 8 bytes (header length, little endian), a JSON header, and the tensors' bytes one after another.
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.errors import Invalid
from app.intake.dtypes import BY_SAFETENSORS_CODE
from app.intake.facts import Samples, Tensor
from app.intake.limits import Limits
from app.intake.strict_json import read_json

MAX_HEADER_BYTES = 16 * 2**20
MAX_TENSORS = 20_000
MAX_RANK = 32

NAME = re.compile(r"[A-Za-z0-9_.:/+-]{1,256}")


@dataclass(frozen=True)
class CheckedSamples:
    """A dataset whose header was checked."""

    facts: Samples
    path: Path

    def fresh(self) -> Iterator[bytes]:
        """Give the bytes of the file."""
        with self.path.open("rb") as file:
            while chunk := file.read(2**20):
                yield chunk


def read_samples(path: Path, _: Limits) -> CheckedSamples:
    """Read a dataset. Raises Invalid with where and what."""
    header, body_bytes = _read_header(path)
    header.pop("__metadata__", None)
    if not 1 <= len(header) <= MAX_TENSORS:
        raise _refused(f"The file holds {len(header)} tensors; a dataset has 1 to {MAX_TENSORS}.")
    free = 0
    tensors = []
    for name, entry in sorted(header.items(), key=lambda item: _offsets(item[0], item[1])):
        start, end = _offsets(name, entry)
        if start != free:
            raise _refused(f"{name}: its bytes begin at {start}, expected {free}.")
        tensors.append(_tensor(name, entry, end - start))
        free = end
    if free != body_bytes:
        raise _refused(f"The tensors take {free} bytes and the file has {body_bytes} for them.")
    tensors.sort(key=lambda tensor: tensor.name)
    samples = _samples({tensor.name: header[tensor.name]["shape"] for tensor in tensors})
    return CheckedSamples(Samples(samples, tuple(tensors)), path)


def _read_header(path: Path) -> tuple[dict[str, Any], int]:
    size = path.stat().st_size
    with path.open("rb") as file:
        header_bytes = int.from_bytes(file.read(8), "little")
        if size < 8 or header_bytes > min(size - 8, MAX_HEADER_BYTES):
            raise Invalid("dataset_invalid", "The file is not safetensors.", _SAVE)
        data = file.read(header_bytes)
    header = read_json(data, lambda detail: _refused(f"The header {detail}."))
    if not isinstance(header, dict):
        raise _refused("The header is not an object.")
    return header, size - 8 - header_bytes


def _offsets(name: str, entry: Any) -> tuple[int, int]:
    match entry:
        case {"data_offsets": [int(start), int(end)]} if 0 <= start <= end:
            return start, end
    raise _refused(f"{_shown(name)}: data_offsets must be two growing numbers.")


def _tensor(name: str, entry: dict[str, Any], size: int) -> Tensor:
    if not NAME.fullmatch(name):
        raise _refused(f"{_shown(name)}: a name has letters, digits and . _ : / + - only.")
    shape, code = entry.get("shape"), entry.get("dtype")
    dtype = BY_SAFETENSORS_CODE.get(code) if isinstance(code, str) else None
    if dtype is None:
        raise _refused(f"{name}: this dtype is not taken; known are {', '.join(BY_SAFETENSORS_CODE)}.")
    if not isinstance(shape, list) or len(shape) > MAX_RANK or not all(_is_size(item) for item in shape):
        raise _refused(f"{name}: the shape must be a list of at most {MAX_RANK} sizes.")
    if math.prod(shape) * dtype.bytes != size:
        raise _refused(
            f"{name}: {dtype.name} {shape} takes {math.prod(shape) * dtype.bytes} bytes, the file has {size}."
        )
    return Tensor(name, dtype.name, tuple(shape))


def _samples(shapes: dict[str, list[int]]) -> int:
    for name, shape in shapes.items():
        if not shape or shape[0] == 0:
            raise _refused(f"{name}: the first dimension counts samples and must be 1 or more.")
    counts = {shape[0] for shape in shapes.values()}
    if len(counts) > 1:
        listed = ", ".join(f"{name} has {shape[0]}" for name, shape in list(shapes.items())[:5])
        raise _refused(f"Every tensor needs the same number of samples: {listed}.")
    return counts.pop()


def _is_size(value: object) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _shown(name: str) -> str:
    """A name from an upload that was not checked yet, fit for a message."""
    return name if NAME.fullmatch(name) else "A tensor"


_SAVE = (
    "Save the samples with safetensors: save_file({'x': samples}, 'data.safetensors'), one tensor for each model input."
)


def _refused(detail: str) -> Invalid:
    return Invalid("dataset_invalid", detail, _SAVE)
