"""Affine quantization: a range becomes a scale and a zero point, a float becomes an integer and back.

    q = clamp(round(x · (1 / scale)) + zero_point, quant_min, quant_max)        x̂ = (q − zero_point) · scale

Source: Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference"
(CVPR 2018), section 2.1. Multiplying by the reciprocal is what torch's own `quantized_decomposed` operators do; the
same order of operations gives the same integers, bit for bit.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

SMALLEST_SCALE = 2.0**-100
"""A smaller one would make 1 / scale overflow in float32 products; such a range holds nothing but noise."""


@dataclass(frozen=True)
class QuantType:
    """The values of a dtype that quantization uses; `middle` is the zero point of symmetric schemes."""

    dtype: torch.dtype
    quant_min: int
    quant_max: int

    @property
    def middle(self) -> int:
        return (self.quant_min + self.quant_max) // 2


QINT8 = QuantType(torch.int8, -127, 127)
"""Narrow range: −128 is left out so that w and −w round alike."""
QUINT8 = QuantType(torch.uint8, 0, 255)
FLOAT8 = QuantType(torch.float8_e4m3fn, -448, 448)
"""Not evenly spaced: dividing by the scale only moves the range to where float8 has its 448 at the ends."""

_QUANT_TYPES = {
    ("qint8", "symmetric"): QINT8,
    ("qint8", "asymmetric"): QuantType(torch.int8, -128, 127),
    ("quint8", "symmetric"): QuantType(torch.uint8, 1, 255),
    ("quint8", "asymmetric"): QUINT8,
    ("int4", "symmetric"): QuantType(torch.int8, -7, 7),
    ("int4", "asymmetric"): QuantType(torch.int8, -8, 7),
    ("float8_e4m3", "symmetric"): FLOAT8,
}


def quant_type_for(dtype: str, scheme: str) -> QuantType:
    """Return the quantized type of a dtype and a scheme of the recipe. int4 values are held in int8 until packed."""
    return _QUANT_TYPES[dtype, scheme]


@dataclass(frozen=True)
class QParams:
    """How floats and quantized values correspond: `scale` float32 and `zero_point` int64 of one shape.

    [] for the whole tensor; [C] with `axis`; [out, in / group_size] with `group_size`, for values [out, in].
    """

    quant_type: QuantType
    scale: Tensor
    zero_point: Tensor
    axis: int | None = None
    group_size: int | None = None

    @property
    def per_row(self) -> bool:
        """Whether no scale serves two rows of the values [out, ...]."""
        return self.group_size is not None or self.axis == 0


def symmetric_qparams(
    minimum: Tensor,
    maximum: Tensor,
    quant_type: QuantType,
    axis: int | None = None,
    scale_dtype: torch.dtype = torch.float32,
) -> QParams:
    """Put zero in the middle: scale = max(|minimum|, |maximum|) / (quant_max − middle), zero_point = middle.

    `minimum`, `maximum`: float [C] or []. A range of nothing but zeros gets scale 1, which keeps it exact.
    """
    abs_max = torch.maximum(minimum.abs(), maximum.abs()).to(torch.float32)
    scale = _rounded_up(_valid_scale(abs_max / (quant_type.quant_max - quant_type.middle)), scale_dtype)
    return QParams(quant_type, scale, torch.full_like(scale, quant_type.middle, dtype=torch.int64), axis)


def asymmetric_qparams(
    minimum: Tensor,
    maximum: Tensor,
    quant_type: QuantType,
    axis: int | None = None,
    scale_dtype: torch.dtype = torch.float32,
) -> QParams:
    """Use the whole range: scale = (maximum − minimum) / (quant_max − quant_min), zero_point = quant_min − min / scale.

    `minimum`, `maximum`: float [C] or []. The range is widened to hold zero, so that padding and ReLU stay exact.
    """
    low = minimum.to(torch.float32).clamp(max=0)
    high = maximum.to(torch.float32).clamp(min=0)
    steps = quant_type.quant_max - quant_type.quant_min
    scale = _rounded_up(_valid_scale(high / steps - low / steps), scale_dtype)
    zero_point = (quant_type.quant_min - torch.round(low / scale)).clamp(quant_type.quant_min, quant_type.quant_max)
    return QParams(quant_type, scale, zero_point.to(torch.int64), axis)


def quantize(values: Tensor, qparams: QParams) -> Tensor:
    """Return float `values` [..., C, ...] quantized, in the quantized dtype and the same shape."""
    scale, zero_point = _spread(values, qparams)
    scaled = values.to(torch.float32) * (1.0 / scale)
    if not qparams.quant_type.dtype.is_floating_point:
        scaled = torch.round(scaled) + zero_point
    return scaled.clamp(qparams.quant_type.quant_min, qparams.quant_type.quant_max).to(qparams.quant_type.dtype)


def dequantize(quantized: Tensor, qparams: QParams) -> Tensor:
    """Return x̂ = (q − zero_point) · scale of quantized values q, float32 in the same shape."""
    scale, zero_point = _spread(quantized, qparams)
    return (quantized.to(torch.float32) - zero_point) * scale


def step_size(quantized: Tensor, qparams: QParams) -> Tensor:
    """Return the distance from each quantized value to the next one, in a shape that broadcasts to theirs.

    Integers are `scale` apart; float8_e4m3 has three bits of mantissa: 2^(exponent − 3), at least 2^−9, times `scale`.
    """
    scale, _ = _spread(quantized, qparams)
    if not qparams.quant_type.dtype.is_floating_point:
        return scale
    exponent = torch.frexp(quantized.to(torch.float32).abs()).exponent - 1  # 0.5 ≤ mantissa < 1 in frexp
    return torch.exp2((exponent - 3).clamp(min=-9).to(torch.float32)) * scale


def _spread(values: Tensor, qparams: QParams) -> tuple[Tensor, Tensor]:
    """Shape scale and zero_point to broadcast over values: [64, 3, 3, 3] with axis 0 takes [64, 1, 1, 1]."""
    scale, zero_point = qparams.scale, qparams.zero_point.to(torch.float32)
    if qparams.group_size is not None:
        size = qparams.group_size
        return scale.repeat_interleave(size, dim=1), zero_point.repeat_interleave(size, dim=1)
    if qparams.axis is None:
        return scale, zero_point
    shape = [1] * values.dim()
    shape[qparams.axis] = -1
    return scale.reshape(shape), zero_point.reshape(shape)


def _rounded_up(scale: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the scale as float32, rounded up to a value of `dtype`, so that the range still fits."""
    scale = scale.clamp(min=torch.finfo(dtype).tiny)
    rounded, above = scale.to(dtype), (scale * (1 + torch.finfo(dtype).eps)).to(dtype)
    return torch.where(rounded.to(torch.float32) < scale, above, rounded).to(torch.float32)


def _valid_scale(scale: Tensor) -> Tensor:
    return torch.where(scale == 0, torch.ones_like(scale), scale.clamp(min=SMALLEST_SCALE))
