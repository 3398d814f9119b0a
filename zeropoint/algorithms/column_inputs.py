"""What the columns of a weight multiply: the largest inputs, and how inputs vary together.

    C = Σ (x − m) · (x − m)ᵀ / n        over n positions, in blocks along the diagonal

The columns of a weight [out, in / groups, *kernel] are ordered taps first, then channels; the inputs of a convolution
are the `patches` that its weight multiplies. A block of columns needs its own C alone, so memory stays proportional to
the columns.

Few positions say little about how columns vary together, and those of one sample resemble each other. So all of C but
its diagonal is multiplied by n' / (n' + columns of the block), n' = √(positions · samples). (A simple form of Ledoit
and Wolf, "A well-conditioned estimator for large-dimensional covariance matrices", J. Multivariate Analysis 2004.)
"""

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn.modules.conv import _ConvNd

from zeropoint.algorithms.context import AlgorithmContext, Layers, watch_inputs
from zeropoint.algorithms.patches import patches
from zeropoint.data.padding import visible
from zeropoint.layers.quantized_layer import QuantizedLayer
from zeropoint.simulation.saturation import columns_of

COLUMNS = 256
"""Columns of a block. On ResNet-18, 128 give 0.2 dB less than 512."""
MOST_POSITIONS = 2**13
"""Positions to learn from, about: many more than the columns of a block."""
MOST_VALUES = 2**24
"""Values of one batch's positions: 64 MiB."""


@dataclass
class Moments:
    """Sums over positions of x − `origin`, which is near the mean: float32 [groups, K], and [groups, B, B] by block."""

    origin: Tensor
    count: int
    total: Tensor
    products: list[Tensor]

    @classmethod
    def of(cls, rows: Tensor, origin: Tensor | None) -> "Moments":
        """Return those of the inputs [groups, positions, K] of one batch."""
        origin = rows.mean(1) if origin is None else origin
        rows = rows - origin.to(rows.device)[:, None]
        parts = (rows[:, :, start:stop] for start, stop in _blocks(rows.shape[2]))
        return cls(origin.cpu(), rows.shape[1], rows.sum(1).cpu(), [(part.mT @ part).cpu() for part in parts])

    def join(self, other: "Moments") -> "Moments":
        """Merge two sets of positions with one origin."""
        products = [first + second for first, second in zip(self.products, other.products, strict=True)]
        return Moments(self.origin, self.count + other.count, self.total + other.total, products)

    def covariances(self, samples: int, *, around_mean: bool) -> list[Tensor]:
        """Return C of each block, float32 [groups, B, B], from so many samples; not `around_mean`: m is 0."""
        mean, found, known = self.total / self.count, list[Tensor](), math.sqrt(self.count * max(samples, 1))
        for (start, stop), products in zip(_blocks(mean.shape[1]), self.products, strict=True):
            part, full = mean[:, start:stop], (mean + self.origin)[:, start:stop]
            covariance = products / self.count - _square(part) + (0.0 if around_mean else _square(full))
            diagonal = covariance.diagonal(dim1=1, dim2=2).clamp(min=0)
            diagonal = diagonal + 1e-12 * diagonal.mean() + 1e-30
            covariance = covariance * (known / (known + stop - start))
            covariance.diagonal(dim1=1, dim2=2).copy_(diagonal)
            found.append(covariance)
        return found


@dataclass
class ColumnInputs:
    """What a layer's columns meet, in the input that its operator reads."""

    largest: Tensor
    """float32 [in], over all positions."""
    moments: Moments

    def join(self, other: "ColumnInputs") -> "ColumnInputs":
        """Merge those of two batches."""
        return ColumnInputs(torch.maximum(self.largest, other.largest), self.moments.join(other.moments))


def column_inputs(context: AlgorithmContext, layers: Layers) -> dict[str, ColumnInputs]:
    """Return what the float model's calibration samples give as inputs to linears and convolutions, by layer name."""
    seen: dict[str, ColumnInputs] = {}
    most = max(1, MOST_POSITIONS // max(len(context.calibration), 1))

    def add(name: str, values: Tensor, mask: Tensor | None) -> None:
        layer, before = layers[name], seen.get(name)
        values = layer.scale_input(values)
        counted, axis = visible(values, mask), layer.layer.channel_axis or -1
        if not counted.numel():
            return
        largest = counted.movedim(axis, -1).reshape(-1, counted.shape[axis]).amax(0).float().cpu()
        rows = _rows(layer, values if isinstance(layer.layer.module, _ConvNd) else counted, most)
        found = ColumnInputs(largest, Moments.of(rows, None if before is None else before.moments.origin))
        seen[name] = found if before is None else before.join(found)

    watch_inputs(context, layers, add)
    return seen


def bytes_of(layer: QuantizedLayer) -> int:
    """Return the bytes that a layer's `ColumnInputs` take, about."""
    columns = layer.weight[0].numel()
    return 4 * int(getattr(layer.layer.module, "groups", 1)) * columns * (min(columns, COLUMNS) + 2)


def _rows(layer: QuantizedLayer, values: Tensor, most: int) -> Tensor:
    """Return inputs as float32 [groups, positions, K], of about `most` positions."""
    module, weight = layer.layer.module, layer.weight
    most = min(most, max(1, MOST_VALUES // (weight[0].numel() * int(getattr(module, "groups", 1)))))
    if isinstance(module, _ConvNd):
        order = columns_of(torch.arange(weight[0].numel()).reshape(1, *weight.shape[1:]))[0]
        return patches(module, values, most)[:, :, order.to(values.device)].float()
    rows = values.reshape(-1, values.shape[-1])
    return rows[:: -(-len(rows) // most)][None].float()


def _blocks(columns: int) -> list[tuple[int, int]]:
    """Return where each block of columns begins and ends."""
    return list(pairwise([*range(0, columns, COLUMNS), columns]))


def _square(values: Tensor) -> Tensor:
    """Return v · vᵀ of each row of [groups, B], as [groups, B, B]."""
    return values[:, :, None] * values[:, None, :]
