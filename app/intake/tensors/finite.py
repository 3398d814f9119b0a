"""Find the first invalid value: NaN, infinity, or a bool that is neither 0 nor 1.

This works without numpy, at hundreds of MiB per second. A float is not finite when all bits of its exponent are set;
these are in its top byte and perhaps the byte below. Bytes are selected, marked and compared for whole chunks.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass


def _marks(fits: Callable[[int], bool]) -> bytes:
    """Return a table for bytes.translate: 1 for each byte that fits."""
    return bytes(fits(byte) for byte in range(256))


@dataclass(frozen=True)
class _Pattern:
    """The byte pattern of an invalid value: the element size, marks for the top byte, marks for the byte below."""

    size: int
    top: bytes
    below: bytes | None = None


_SEVEN_BITS = _marks(lambda byte: byte & 0x7F == 0x7F)
_EIGHTH_BIT = _marks(lambda byte: byte & 0x80 == 0x80)

_INVALID = {
    "bool": _Pattern(1, _marks(lambda byte: byte > 1)),
    "float16": _Pattern(2, _marks(lambda byte: byte & 0x7C == 0x7C)),
    "bfloat16": _Pattern(2, _SEVEN_BITS, _EIGHTH_BIT),
    "float32": _Pattern(4, _SEVEN_BITS, _EIGHTH_BIT),
    "float64": _Pattern(8, _SEVEN_BITS, _marks(lambda byte: byte & 0xF0 == 0xF0)),
}


def first_invalid_value(dtype: str, chunks: Iterable[bytes]) -> int | None:
    """Return the flat index of the first NaN, infinity or broken bool; None when there is none.

    Values are little endian; each chunk holds whole elements. A dtype without invalid values is not read at all.
    """
    pattern = _INVALID.get(dtype)
    if pattern is None:
        return None
    before = 0
    for chunk in chunks:
        position = _first_in(chunk, pattern)
        if position >= 0:
            return before + position
        before += len(chunk) // pattern.size
    return None


def index_of(flat: int, shape: tuple[int, ...]) -> list[int]:
    """Return the index, one number per dimension, of element number `flat` in row-major order."""
    index = []
    for size in reversed(shape):
        flat, position = divmod(flat, size)
        index.append(position)
    return index[::-1]


def _first_in(chunk: bytes, pattern: _Pattern) -> int:
    marked = chunk[pattern.size - 1 :: pattern.size].translate(pattern.top)
    if pattern.below is None or 1 not in marked:
        return marked.find(1)
    below = chunk[pattern.size - 2 :: pattern.size].translate(pattern.below)
    # as integers, both rows of marks are compared in one step
    intersection = int.from_bytes(marked, "little") & int.from_bytes(below, "little")
    return intersection.to_bytes(len(marked), "little").find(1)
