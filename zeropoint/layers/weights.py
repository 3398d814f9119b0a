"""A weight and its code: float values become numbers of a dtype, are stored under names, and come back.

integers, float8   numbers on a grid; scale beside them, zero_point too where the scheme is asymmetric
int4               the same, two numbers a byte
float16, bfloat16  a cast; no grid
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from zeropoint.observers import observer_for
from zeropoint.observers.observer import Range, Target
from zeropoint.primitives.packing import pack_int4, unpack_int4
from zeropoint.primitives.qparams import Affine, dequantize, grid_for, quantize
from zeropoint.schema.recipe import CASTS, WeightSettings


def encode(
    weight: Tensor, settings: WeightSettings, axis: int, scale_dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Affine | None]:
    """Float [out, ...] -> numbers of the same shape and their grid (None for a cast).

    `axis`: where per_channel scales lie: [64, 3, 3, 3] with axis 0 -> scale [64]. Groups divide axis 1 of [out, in].
    `scale_dtype`: what scales will be stored in.
    """
    affine = None
    if settings.dtype not in CASTS:
        affine = lay(ranges_of(weight, settings, axis, scale_dtype), len(weight), settings, axis, scale_dtype)
    return encode_on(affine, weight, settings), affine


def encode_on(affine: Affine | None, weight: Tensor, settings: WeightSettings) -> Tensor:
    """Float [out, ...] -> numbers on a grid that is known; None for a cast."""
    return weight.to(getattr(torch, settings.dtype)) if affine is None else quantize(weight, affine)


def ranges_of(weight: Tensor, settings: WeightSettings, axis: int, scale_dtype: torch.dtype = torch.float32) -> Range:
    """The range [n] of the values that share a scale, n = 1, C or out · groups, as the observer chooses it."""
    rows = _rows(weight, settings, axis)
    return observer_for(settings.observer).of_rows(rows, _target(settings, scale_dtype))


def lay(
    ranges: Range, out: int, settings: WeightSettings, axis: int, scale_dtype: torch.dtype = torch.float32
) -> Affine:
    """The grid over `ranges_of` a weight [out, ...]."""
    target, (low, high) = _target(settings, scale_dtype), ranges
    if settings.granularity == "per_tensor":
        return target.lay(low[0], high[0])
    if settings.granularity == "per_channel":
        return target.lay(low, high, axis)
    laid, shape = target.lay(low, high), (out, -1)
    return Affine(laid.grid, laid.scale.reshape(shape), laid.zero_point.reshape(shape), group_size=settings.group_size)


def by_rows(settings: WeightSettings, axis: int) -> bool:
    """Whether no scale serves two rows of a weight [out, ...], so that it can be quantized row by row."""
    return settings.granularity == "per_group" or (settings.granularity == "per_channel" and axis == 0)


def rows_of(affine: Affine, first: int, last: int) -> Affine:
    """The grid of some rows, of one that was laid by rows."""
    return replace(affine, scale=affine.scale[first:last], zero_point=affine.zero_point[first:last])


def joined(parts: Sequence[Affine]) -> Affine:
    """The grid of all rows, of those of some rows after others."""
    scale, zero_point = (torch.cat([getattr(part, name) for part in parts]) for name in ("scale", "zero_point"))
    return replace(parts[0], scale=scale, zero_point=zero_point)


def decode(numbers: Tensor, affine: Affine | None) -> Tensor:
    """Numbers -> float32, what the quantized layer computes with."""
    return numbers.to(torch.float32) if affine is None else dequantize(numbers, affine)


def to_tensors(name: str, settings: WeightSettings, numbers: Tensor, affine: Affine | None) -> dict[str, Tensor]:
    """What is stored: `name`, `name_scale`, and `name_zero_point` where the scheme has one."""
    stored = {name: pack_int4(numbers) if settings.dtype == "int4" else numbers}
    if affine is not None:
        stored[f"{name}_scale"] = affine.scale
        if settings.scheme == "asymmetric":
            stored[f"{name}_zero_point"] = affine.zero_point.to(affine.grid.dtype)
    return stored


def from_tensors(
    name: str, settings: WeightSettings, axis: int | None, tensors: Mapping[str, Tensor]
) -> tuple[Tensor, Affine | None]:
    """The inverse of `to_tensors`. Raises KeyError with the name of a tensor that is missing."""
    stored = tensors[name]
    numbers = unpack_int4(stored) if settings.dtype == "int4" else stored
    if settings.dtype in CASTS:
        return numbers, None
    grid, scale = grid_for(settings.dtype, settings.scheme), tensors[f"{name}_scale"]
    if settings.scheme == "asymmetric":
        zero_point = tensors[f"{name}_zero_point"].to(torch.int64)
    else:
        zero_point = torch.full_like(scale, grid.middle, dtype=torch.int64)
    return numbers, Affine(grid, scale, zero_point, axis, settings.group_size)


def _target(settings: WeightSettings, scale_dtype: torch.dtype) -> Target:
    return Target(grid_for(settings.dtype, settings.scheme), settings.scheme, scale_dtype)


def _rows(weight: Tensor, settings: WeightSettings, axis: int) -> Tensor:
    """The values that share a scale, a row for each: [1, n], [C, n] or [out · groups, group_size]."""
    if settings.granularity == "per_tensor":
        return weight.reshape(1, -1)
    if settings.granularity == "per_group":
        return weight.reshape(-1, settings.group_size or weight.shape[1])
    return weight.movedim(axis, 0).flatten(1)
