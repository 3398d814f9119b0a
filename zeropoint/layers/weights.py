"""A weight and its quantized values: float values are quantized, stored under names, and read back.

integers, float8   quantized values; scale beside them, zero_point too where the scheme is asymmetric
int4               the same, two values a byte
float16, bfloat16  a cast; no qparams
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from zeropoint.observers import observer_for
from zeropoint.observers.observer import QuantizationSpec, Range
from zeropoint.primitives.packing import pack_int4, unpack_int4
from zeropoint.primitives.qparams import QParams, dequantize, quant_type_for, quantize
from zeropoint.schema.recipe import CASTS, WeightSettings


def quantize_weight(
    weight: Tensor, settings: WeightSettings, axis: int, scale_dtype: torch.dtype = torch.float32
) -> tuple[Tensor, QParams | None]:
    """Return the quantized values of a float weight [out, ...] in its shape, and their qparams (None for a cast).

    `axis`: the dimension of per_channel scales: [64, 3, 3, 3] with axis 0 has scale [64]. Groups divide axis 1 of
    [out, in]. `scale_dtype`: what scales will be stored in.
    """
    qparams = None
    if settings.dtype not in CASTS:
        qparams = choose_weight_qparams(
            weight_ranges(weight, settings, axis, scale_dtype), len(weight), settings, axis, scale_dtype
        )
    return quantize_weight_with(qparams, weight, settings), qparams


def quantize_weight_with(qparams: QParams | None, weight: Tensor, settings: WeightSettings) -> Tensor:
    """Return the quantized values of a float weight [out, ...] with qparams that are known; None for a cast."""
    return weight.to(getattr(torch, settings.dtype)) if qparams is None else quantize(weight, qparams)


def weight_ranges(
    weight: Tensor, settings: WeightSettings, axis: int, scale_dtype: torch.dtype = torch.float32
) -> Range:
    """Return the range [n] of the values that share a scale, n = 1, C or out · groups, as the observer chooses it."""
    rows = _rows(weight, settings, axis)
    return observer_for(settings.observer).of_rows(rows, _spec(settings, scale_dtype))


def choose_weight_qparams(
    ranges: Range, out: int, settings: WeightSettings, axis: int, scale_dtype: torch.dtype = torch.float32
) -> QParams:
    """Choose the qparams of a weight [out, ...] whose `weight_ranges` are these."""
    spec, (low, high) = _spec(settings, scale_dtype), ranges
    if settings.granularity == "per_tensor":
        return spec.choose_qparams(low[0], high[0])
    if settings.granularity == "per_channel":
        return spec.choose_qparams(low, high, axis)
    flat, shape = spec.choose_qparams(low, high), (out, -1)
    return replace(
        flat,
        scale=flat.scale.reshape(shape),
        zero_point=flat.zero_point.reshape(shape),
        group_size=settings.group_size,
    )


def has_qparams_per_row(settings: WeightSettings, axis: int) -> bool:
    """Return whether no two rows of a weight [out, ...] share a scale, so that it can be quantized row by row."""
    return settings.granularity == "per_group" or (settings.granularity == "per_channel" and axis == 0)


class WeightBlock(NamedTuple):
    """Some rows of a weight [out, ...], and the qparams of these rows."""

    rows: slice
    values: Tensor
    qparams: QParams | None


def weight_blocks(blocks: Iterable[Tensor], qparams: QParams | None = None) -> Iterator[WeightBlock]:
    """Yield a weight's blocks, one after another from row 0 on, each with its part of the weight's `qparams`."""
    first = 0
    for values in blocks:
        rows = slice(first, first + len(values))
        yield WeightBlock(rows, values, None if qparams is None else slice_rows(qparams, rows))
        first = rows.stop


def slice_rows(qparams: QParams, rows: slice) -> QParams:
    """Return the qparams of some rows of a weight: a slice where each row has scales of its own, else all of them."""
    if not qparams.per_row:
        return qparams
    return replace(qparams, scale=qparams.scale[rows], zero_point=qparams.zero_point[rows])


def concatenate_rows(parts: Sequence[QParams]) -> QParams:
    """Return the qparams of a weight from those of its blocks, the inverse of `slice_rows`."""
    if not parts[0].per_row:
        return parts[0]
    scale, zero_point = (torch.cat([getattr(part, name) for part in parts]) for name in ("scale", "zero_point"))
    return replace(parts[0], scale=scale, zero_point=zero_point)


def dequantize_weight(quantized: Tensor, qparams: QParams | None) -> Tensor:
    """Return quantized values as float32, as the quantized layer computes with them."""
    return quantized.to(torch.float32) if qparams is None else dequantize(quantized, qparams)


class WeightNames(NamedTuple):
    """The names of the tensors that are stored for a weight."""

    values: str
    scale: str
    zero_point: str

    @classmethod
    def usual(cls, name: str) -> "WeightNames":
        """Return `name`, `name_scale`, `name_zero_point`."""
        return cls(name, f"{name}_scale", f"{name}_zero_point")


def packed(quantized: Tensor, settings: WeightSettings) -> Tensor:
    """Return quantized values [out, ...] as they are stored: int4 two values a byte."""
    return pack_int4(quantized) if settings.dtype == "int4" else quantized


def as_stored(tensor: Tensor) -> Tensor:
    """Return a tensor of a weight [out, in], its scales or its zero points as those of [in, out], or back."""
    return tensor.t().contiguous() if tensor.dim() == 2 else tensor


def to_tensors(
    names: WeightNames, settings: WeightSettings, quantized: Tensor, qparams: QParams | None
) -> dict[str, Tensor]:
    """Return what is stored: the values, their scale, and their zero point where the scheme has one."""
    stored = {names.values: packed(quantized, settings)}
    if qparams is not None:
        stored[names.scale] = qparams.scale
        if settings.scheme == "asymmetric":
            stored[names.zero_point] = qparams.zero_point.to(qparams.quant_type.dtype)
    return stored


def from_tensors(
    names: WeightNames, settings: WeightSettings, axis: int | None, tensors: Mapping[str, Tensor]
) -> tuple[Tensor, QParams | None]:
    """Return the values and qparams that `to_tensors` stored. Raises KeyError with a name that is missing."""
    stored = tensors[names.values]
    quantized = unpack_int4(stored) if settings.dtype == "int4" else stored
    if settings.dtype in CASTS:
        return quantized, None
    quant_type, scale = quant_type_for(settings.dtype, settings.scheme), tensors[names.scale]
    if settings.scheme == "asymmetric":
        zero_point = tensors[names.zero_point].to(torch.int64)
    else:
        zero_point = torch.full_like(scale, quant_type.middle, dtype=torch.int64)
    return quantized, QParams(quant_type, scale, zero_point, axis, settings.group_size)


def _spec(settings: WeightSettings, scale_dtype: torch.dtype) -> QuantizationSpec:
    return QuantizationSpec(quant_type_for(settings.dtype, settings.scheme), settings.scheme, scale_dtype)


def _rows(weight: Tensor, settings: WeightSettings, axis: int) -> Tensor:
    """Return the values with a row for each scale: [1, n], [C, n] or [out · groups, group_size]."""
    if settings.granularity == "per_tensor":
        return weight.reshape(1, -1)
    if settings.granularity == "per_group":
        return weight.reshape(-1, settings.group_size or weight.shape[1])
    return weight.movedim(axis, 0).flatten(1)
