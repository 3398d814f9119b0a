"""The affine grid: a range becomes a scale and a zero point, a float becomes an integer and back.

    q = clamp(round(x · (1 / scale)) + zero_point, quant_min, quant_max)        x̂ = (q − zero_point) · scale

Source: Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference"
(CVPR 2018), section 2.1. Multiplying by the reciprocal is what torch's own `quantized_decomposed` operators do; the
same order of operations gives the same integers, bit for bit.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

SMALLEST_SCALE = 2.0**-100
"""A narrower grid would make 1 / scale overflow in float32 products; such a range holds nothing but noise."""


@dataclass(frozen=True)
class Grid:
    """The integers of a quantized dtype that may be used."""

    dtype: torch.dtype
    quant_min: int
    quant_max: int


QINT8 = Grid(torch.int8, -127, 127)
"""Narrow range: −128 is left out so that the grid is symmetric and w and −w round alike."""
QUINT8 = Grid(torch.uint8, 0, 255)


@dataclass(frozen=True)
class Affine:
    """A grid laid over the real numbers. `scale` float32 and `zero_point` int64, both [C] (axis) or [] (per tensor)."""

    grid: Grid
    scale: Tensor
    zero_point: Tensor
    axis: int | None = None


def symmetric(minimum: Tensor, maximum: Tensor, grid: Grid, axis: int | None = None) -> Affine:
    """Zero stays zero: scale = max(|minimum|, |maximum|) / quant_max, zero_point = 0.

    `minimum`, `maximum`: float [C] or []. A range of nothing but zeros gets scale 1, which keeps it exact.
    """
    reach = torch.maximum(minimum.abs(), maximum.abs()).to(torch.float32)
    scale = _valid_scale(reach / grid.quant_max)
    return Affine(grid, scale, torch.zeros_like(scale, dtype=torch.int64), axis)


def asymmetric(minimum: Tensor, maximum: Tensor, grid: Grid, axis: int | None = None) -> Affine:
    """Use the whole grid: scale = (maximum − minimum) / (quant_max − quant_min), zero_point = quant_min − min / scale.

    `minimum`, `maximum`: float [C] or []. The range is widened to hold zero, so that padding and ReLU stay exact.
    """
    low = minimum.to(torch.float32).clamp(max=0)
    high = maximum.to(torch.float32).clamp(min=0)
    scale = _valid_scale(high / (grid.quant_max - grid.quant_min) - low / (grid.quant_max - grid.quant_min))
    zero_point = (grid.quant_min - torch.round(low / scale)).clamp(grid.quant_min, grid.quant_max)
    return Affine(grid, scale, zero_point.to(torch.int64), axis)


def quantize(values: Tensor, affine: Affine) -> Tensor:
    """Float `values` [..., C, ...] -> integers of the grid's dtype, same shape."""
    scale, zero_point = _along_axis(values, affine)
    integers = torch.round(values.to(torch.float32) * (1.0 / scale)) + zero_point
    return integers.clamp(affine.grid.quant_min, affine.grid.quant_max).to(affine.grid.dtype)


def dequantize(integers: Tensor, affine: Affine) -> Tensor:
    """Integers -> float32 x̂ = (q − zero_point) · scale, same shape."""
    scale, zero_point = _along_axis(integers, affine)
    return (integers.to(torch.float32) - zero_point) * scale


def _along_axis(values: Tensor, affine: Affine) -> tuple[Tensor, Tensor]:
    """Shape scale and zero_point [C] to broadcast along the axis: values [64, 3, 3, 3], axis 0 -> [64, 1, 1, 1]."""
    zero_point = affine.zero_point.to(torch.float32)
    if affine.axis is None:
        return affine.scale, zero_point
    shape = [1] * values.dim()
    shape[affine.axis] = -1
    return affine.scale.reshape(shape), zero_point.reshape(shape)


def _valid_scale(scale: Tensor) -> Tensor:
    return torch.where(scale == 0, torch.ones_like(scale), scale.clamp(min=SMALLEST_SCALE))
