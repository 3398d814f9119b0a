"""Integers to multiply, near the ends of their ranges, for the tests of saturating kernels and what recorded them."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

Integers = NDArray[np.integer]

SIZES = [(1, 1, 1), (1, 7, 5), (1, 64, 16), (1, 33, 40), (3, 5, 17), (6, 27, 33), (8, 63, 24), (2, 257, 8), (3, 386, 6)]
"""Rows, columns, outputs. The last two are cut in the middle by oneDNN, where pairs would cross."""


@dataclass(frozen=True)
class Shape:
    """A convolution: options are alike in all dimensions."""

    inputs: int
    outputs: int
    size: int
    kernel: tuple[int, ...] = (3, 3)
    groups: int = 1
    stride: int = 1
    padding: int = 1
    dilation: int = 1


SHAPES = [
    Shape(3, 8, 9, stride=2),
    Shape(4, 16, 5, (1, 1), padding=0),
    Shape(5, 7, 6),
    Shape(8, 8, 6),
    Shape(16, 12, 7, padding=2, dilation=2),
    Shape(8, 8, 7, groups=8),
    Shape(16, 16, 9, (5, 5), groups=16, stride=2, padding=2),
    Shape(16, 16, 5, groups=2),
    Shape(12, 6, 6, groups=3),
    Shape(8, 24, 5, groups=8),
    Shape(1, 8, 12, (5,), stride=2, padding=2),
    Shape(32, 12, 9, (1,), padding=0),
    Shape(7, 5, 5, (2, 2), padding=0),
    Shape(16, 8, 8, (1, 1), stride=2, padding=0),
]
SPREADS = [("uniform", "uniform"), ("high", "extreme"), ("extreme", "extreme")]
"""How the inputs and how the weights are drawn."""


@dataclass(frozen=True)
class Case:
    """Inputs uint8 or int8 and weights int8 or uint8 as a linear [out, in] or a convolution has them."""

    name: str
    values: Integers
    weight: Integers
    zero_point: int
    shape: Shape | None = field(default=None)


def cases(values: type[np.integer] = np.uint8, weights: type[np.integer] = np.int8) -> Iterator[Case]:
    """Yield the same cases each time: the seed is the case's place."""
    kinds: list[Shape | tuple[int, int, int]] = [*SIZES, *SHAPES]
    for place, (kind, spread) in enumerate((kind, spread) for kind in kinds for spread in SPREADS):
        random = np.random.default_rng(place)
        sizes = _sizes(kind)
        given, weight = (_drawn(random, *part) for part in zip(sizes, (values, weights), spread, strict=True))
        zero_point = int(random.integers(0, 100)) if place % 2 else 0
        shape = kind if isinstance(kind, Shape) else None
        yield Case(f"{place}", given, weight, zero_point, shape)


def _sizes(kind: Shape | tuple[int, int, int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    if isinstance(kind, Shape):
        inputs = (2, kind.inputs, *[kind.size] * len(kind.kernel))
        return inputs, (kind.outputs, kind.inputs // kind.groups, *kind.kernel)
    rows, columns, outputs = kind
    return (rows, columns), (outputs, columns)


def _drawn(random: Generator, size: tuple[int, ...], dtype: type[np.integer], spread: str) -> Integers:
    low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
    if spread == "extreme":
        return random.choice([low, high], size).astype(dtype)
    return random.integers(high - 40 if spread == "high" else low, high + 1, size).astype(dtype)
