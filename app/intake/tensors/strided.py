"""Tensors that are views of a storage: which bytes they need, and their values in row-major order.

torch.save keeps a storage as it is and describes each tensor by offset, sizes and strides, counted in elements. A
transposed weight lies in its storage column by column; safetensors wants it row by row.
"""

import math
import mmap
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from app.intake.limits import CHUNK_BYTES
from app.intake.tensors.dtypes import BY_NAME
from app.intake.tensors.safetensors import read_range

MAX_GATHERED_BYTES = 2**30
"""The largest storage of which a tensor may be a view that is not row-major; it is mapped, not read."""

_BLOCK_BYTES = 4 * 2**20
_COMPLEX = ("complex64", "complex128")
_WORDS: Mapping[int, Literal["B", "H", "I", "Q"]] = MappingProxyType({1: "B", 2: "H", 4: "I", 8: "Q"})
"""Size of a word in bytes -> its code in memoryview and array."""

Sizes = Sequence[int]


@dataclass(frozen=True)
class StoredBytes:
    """A part of a file, whether the numbers in it have their highest byte first, and their checksum if there is one."""

    path: Path
    start: int
    size: int
    big_endian: bool = False
    crc: int = 0


def reach(sizes: Sizes, strides: Sizes, offset: int) -> int:
    """Return how many elements of its storage a view with strides of 0 or more needs; 0 for a view of no element."""
    if 0 in sizes:
        return 0
    return offset + sum((size - 1) * stride for size, stride in zip(sizes, strides, strict=True)) + 1


def is_row_major(sizes: Sizes, strides: Sizes) -> bool:
    """Return whether the elements follow each other in row-major order without a gap."""
    expected = 1
    for size, stride in zip(reversed(sizes), reversed(strides), strict=True):
        if size != 1 and stride != expected:
            return 0 in sizes
        expected *= size
    return True


def merged(sizes: Sizes, strides: Sizes) -> tuple[Sizes, Sizes]:
    """Return the same elements in the same order with as few dimensions as can be; sizes are 1 or more."""
    kept: list[tuple[int, int]] = []
    for size, stride in zip(sizes, strides, strict=True):
        if size == 1:
            continue
        if kept and kept[-1][1] == size * stride:
            kept[-1] = kept[-1][0] * size, stride
        else:
            kept.append((size, stride))
    return [size for size, _ in kept], [stride for _, stride in kept]


def pieces(sizes: Sizes, strides: Sizes) -> int:
    """Return about how many single steps `row_major` takes for a view: 0 for one that is row-major."""
    if 0 in sizes or is_row_major(sizes, strides):
        return 0
    sizes, _ = merged(sizes, strides)
    return math.prod(sizes) // max(sizes)


def row_major(stored: StoredBytes, dtype: str, sizes: Sizes, strides: Sizes, offset: int) -> Iterator[bytes]:
    """Yield a view's values, little endian and row-major, in chunks of whole elements.

    Time and memory are those of the values; a view that is not row-major maps its storage, MAX_GATHERED_BYTES at most.
    """
    element = BY_NAME[dtype].bytes
    if 0 in sizes:
        return
    sizes, strides = merged(sizes, strides)
    if is_row_major(sizes, strides):
        chunks = read_range(stored.path, stored.start + offset * element, math.prod(sizes) * element)
    else:
        chunks = _gathered(stored, element, sizes, strides, offset)
    yield from _swapped(chunks, _word_bytes(dtype)) if stored.big_endian else chunks


def _word_bytes(dtype: str) -> int:
    """Return the size of the numbers whose bytes have an order: a complex number is two of them."""
    size = BY_NAME[dtype].bytes
    return size // 2 if dtype in _COMPLEX else size


def _swapped(chunks: Iterator[bytes], word: int) -> Iterator[bytes]:
    for chunk in chunks:
        words = array(_WORDS[word], chunk)
        words.byteswap()
        yield words.tobytes()


def _gathered(stored: StoredBytes, element: int, sizes: Sizes, strides: Sizes, offset: int) -> Iterator[bytes]:
    word = min(element, 8)
    if element > word:  # complex128: two words
        sizes, strides, offset = (*sizes, 2), (*(2 * stride for stride in strides), 1), 2 * offset
    before = stored.start % mmap.ALLOCATIONGRANULARITY
    with (
        stored.path.open("rb") as file,
        mmap.mmap(file.fileno(), before + stored.size, access=mmap.ACCESS_READ, offset=stored.start - before) as mapped,
        memoryview(mapped) as whole,
        whole[before : before + stored.size - stored.size % word].cast(_WORDS[word]) as source,
    ):
        for block in _blocks(sizes, strides, offset, _BLOCK_BYTES // word):
            yield from _in_chunks(_copied(source, *block, word))


def _in_chunks(data: bytearray) -> Iterator[bytes]:
    for start in range(0, len(data), CHUNK_BYTES):
        yield bytes(data[start : start + CHUNK_BYTES])


Block = tuple[Sizes, Sizes, int]


def _blocks(sizes: Sizes, strides: Sizes, offset: int, most: int) -> Iterator[Block]:
    """Yield parts of a view, in row-major order, with at most `most` elements each."""
    inner = math.prod(sizes[1:])
    if inner > most:
        for row in range(sizes[0]):
            yield from _blocks(sizes[1:], strides[1:], offset + row * strides[0], most)
        return
    rows = max(1, most // max(1, inner))
    for row in range(0, sizes[0], rows):
        yield (min(rows, sizes[0] - row), *sizes[1:]), strides, offset + row * strides[0]


def _copied(source: memoryview, sizes: Sizes, strides: Sizes, offset: int, word: int) -> bytearray:
    """Return a block's values in row-major order; its longest dimension is copied in single steps."""
    data = bytearray(math.prod(sizes) * word)
    target = memoryview(data).cast(_WORDS[word])
    steps = [math.prod(sizes[place + 1 :]) for place in range(len(sizes))]
    longest = max(range(len(sizes)), key=lambda place: sizes[place])
    others = [place for place in range(len(sizes)) if place != longest]
    count, step, stride = sizes[longest], steps[longest], strides[longest]
    starts = _positions([sizes[place] for place in others], [strides[place] for place in others])
    for to, at in zip(_positions([sizes[p] for p in others], [steps[p] for p in others]), starts, strict=True):
        begin = offset + at
        if stride == 0:
            values = memoryview(source[begin : begin + 1].tobytes() * count).cast(_WORDS[word])
        else:
            values = source[begin : begin + (count - 1) * stride + 1 : stride]
        target[to : to + (count - 1) * step + 1 : step] = values
    target.release()
    return data


def _positions(sizes: Sizes, steps: Sizes) -> Iterator[int]:
    """Yield the position of every index, the last dimension varying fastest."""
    if not sizes:
        yield 0
        return
    for first in range(0, sizes[0] * steps[0], steps[0]) if steps[0] else [0] * sizes[0]:
        for rest in _positions(sizes[1:], steps[1:]):
            yield first + rest
