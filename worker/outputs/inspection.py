"""Checks that an artifact is what its name says, without torch: a child that has read an upload may write anything.

Nothing in an artifact is executed here, and memory is bounded by the limit on headers.
"""

import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from app.errors import Invalid
from app.intake.archives.stored_zip import Archive
from app.intake.parsing.strict_json import read_json

HEADER_CAP = 64 << 20
BITS = {
    **{"BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8},
    **{"U16": 16, "I16": 16, "F16": 16, "BF16": 16},
    **{"U32": 32, "I32": 32, "F32": 32, "U64": 64, "I64": 64, "F64": 64, "C64": 64},
}


class NotAnArtifact(Exception):
    """A file is not what its name says. The text is for operators."""


def inspect(path: Path) -> None:
    """Check the file if its kind is known here. Raises NotAnArtifact."""
    if check := _CHECKS.get(path.suffix):
        try:
            check(path)
        except Invalid as error:
            raise NotAnArtifact(f"{path.name}: {error.detail}") from error


def _check_program(path: Path) -> None:
    """Raise Invalid unless members are stored, in their places, and none is there twice."""
    with Archive(path) as archive:
        archive.check_members()


def _check_safetensors(path: Path) -> None:
    """Raise NotAnArtifact unless the tensors fill the file one after another, each with the bytes of its shape."""
    header, body_bytes = _header(path)
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise NotAnArtifact(f"{path.name}: metadata must be words")
    free = 0
    for name, (start, end) in sorted(((name, _span(path, entry)) for name, entry in header.items()), key=_place):
        if start != free:
            raise NotAnArtifact(f"{path.name}: {name!r} begins at {start}, not {free}")
        free = end
    if free != body_bytes:
        raise NotAnArtifact(f"{path.name}: the tensors take {free} bytes of {body_bytes}")


def _header(path: Path) -> tuple[dict[str, Any], int]:
    size = os.stat(path).st_size
    with path.open("rb") as file:
        header_bytes = int.from_bytes(file.read(8), "little")
        if size < 8 or header_bytes > min(size - 8, HEADER_CAP):
            raise NotAnArtifact(f"{path.name}: a header of {header_bytes} bytes in a file of {size}")
        content = file.read(header_bytes)
    header = read_json(content, lambda detail: NotAnArtifact(f"{path.name}: the header {detail}"))
    if not isinstance(header, dict):
        raise NotAnArtifact(f"{path.name}: the header is no object")
    return header, size - 8 - header_bytes


def _span(path: Path, entry: Any) -> tuple[int, int]:
    match entry:
        case {"dtype": str(dtype), "shape": [*shape], "data_offsets": [int(start), int(end)], **more} if not more:
            whole = all(type(length) is int and length >= 0 for length in shape)
            if whole and 0 <= start <= end and math.prod(shape) * BITS.get(dtype, -1) == (end - start) * 8:
                return start, end
    raise NotAnArtifact(f"{path.name}: a tensor's entry is not true")


def _place(item: tuple[str, tuple[int, int]]) -> tuple[int, int]:
    return item[1]


_CHECKS: Mapping[str, Callable[[Path], None]] = {".safetensors": _check_safetensors, ".pt2": _check_program}
