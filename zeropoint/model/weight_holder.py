"""Weights that an operator reads as they are, with no leaf around the operator: a recurrent network's, experts', …

A holder stands where the graph read the parameter, and returns it: the float one, or the dequantized one while its
quantization is simulated. Whatever the operator does, what it reads then equals what the artifacts dequantize.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn


@dataclass(frozen=True)
class Layout:
    """How a weight of any rank is a matrix [out, in]: every output has scales of its own.

    experts [E, in, out]:  shape (E, in, out), order (0, 2, 1), inputs 1  ->  [E · out, in]
    """

    shape: tuple[int, ...]
    """The shape of the stored weight."""
    order: tuple[int, ...]
    """The stored weight's dimensions: those that count outputs, then the last `inputs`, which a product sums over."""
    inputs: int = 1

    @property
    def is_matrix(self) -> bool:
        """Whether the stored weight is [out, in] already."""
        return self.order == (0, 1) and self.inputs == 1

    @property
    def outputs(self) -> tuple[int, ...]:
        """The dimensions of the stored weight that count outputs."""
        return self.order[: len(self.order) - self.inputs]

    @property
    def inverse(self) -> list[int]:
        """The position in `order` of each dimension of the stored weight."""
        return [self.order.index(dim) for dim in range(len(self.order))]

    def sizes(self, columns: int) -> list[int]:
        """Return the sizes of a matrix [out, columns] before its dimensions are put in place.

        Groups, packed values and scales have fewer columns than the weight; these all lie along the last dimension.
        """
        inputs = [self.shape[dim] for dim in self.order[len(self.outputs) :]]
        if columns != math.prod(inputs):
            inputs = [*[1] * (self.inputs - 1), columns]
        return [*(self.shape[dim] for dim in self.outputs), *inputs]

    def matrix(self, stored: Tensor) -> Tensor:
        """Return a stored weight, or its scales, as [out, columns]; a scale [] of the whole tensor stays."""
        if stored.dim() == 0:
            return stored
        ordered = stored.permute(self.order)
        return ordered.reshape(math.prod(ordered.shape[: len(self.outputs)]), -1)

    def stored(self, matrix: Tensor) -> Tensor:
        """Return the inverse of `matrix`, where scales [out] become [out, 1]; contiguous but for a plain view."""
        if matrix.dim() == 0:
            return matrix
        rows = matrix if matrix.dim() > 1 else matrix.unsqueeze(1)
        return rows.reshape(self.sizes(rows.shape[1])).permute(self.inverse)


class WeightHolder(nn.Module):
    """A leaf that holds a weight and returns it, in the shape that the operator reads."""

    weight: nn.Parameter

    def __init__(self, weight: nn.Parameter, layout: Layout) -> None:
        """Hold `weight`, which stays the parameter that it is: no value is copied."""
        super().__init__()
        self.weight = weight
        self.layout = layout

    @property
    def matrix(self) -> Tensor:
        """The weight as [out, in]; a view if that is possible."""
        return self.layout.matrix(self.weight.detach())

    def forward(self) -> Tensor:
        """Return the weight."""
        return self.weight

    def as_read(self, matrix: Tensor) -> Tensor:
        """Return a weight [out, in] on the device, in the dtype and with the dimensions of the one that is held."""
        return self.layout.stored(matrix.to(self.weight.device, self.weight.dtype))


def layout_in(metadata: dict[str, Any] | None, shape: Sequence[int]) -> Layout | None:
    """Return the layout that a file's metadata tells of a weight of this stored shape; None for [out, in]."""
    if metadata is None:
        return None
    return Layout(tuple(shape), tuple(metadata["order"]), int(metadata["inputs"]))
