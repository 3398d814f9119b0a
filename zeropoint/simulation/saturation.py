"""Model the integer kernels of x86 processors that have AVX2 or AVX-512 and no VNNI: `vpmaddubsw` saturates.

    sum over pairs of  clamp(x_a · w_a + x_b · w_b, −2¹⁵, 2¹⁵ − 1),  x uint8, w int8

(Intel 64 and IA-32 manual, volume 2, PMADDUBSW.) The instruction multiplies unsigned by signed bytes and adds two
neighbours in 16 bits; what follows is exact. int8 inputs are shifted up by 128, which is compensated afterwards. Which
products are neighbours depends on the library (docs/decisions/0028-kernels-that-saturate.md); zero points are
subtracted after the sum, so they change nothing here.

A pair can saturate only where both weights have one sign and |w_a| + |w_b| ≥ 129. Only these pairs are computed.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product

import torch
from torch import Tensor
from torch.nn import functional

LOW, HIGH = -(2**15), 2**15 - 1
LARGEST_INPUT = 255
SHIFT = 128
"""What turns an int8 input into the uint8 that the instruction takes."""
EXACT_COLUMNS = 512
"""So many products of 255 · 128 have a sum below 2²⁴, which float32 holds exactly."""
MOST_ELEMENTS = 2**22
"""Pairs times rows that are computed at once: 16 MiB each in int32."""


@dataclass(frozen=True)
class Kernel:
    """Which products of one output a library adds in 16 bits; the columns are ordered taps first, then channels."""

    across_taps: bool
    """Whether pairs cross from one tap to the next where the channels of a group are odd; else each tap starts one."""
    depthwise: bool
    """Whether a group of one input and one output channel is multiplied by this instruction at all."""
    halves: bool
    """Whether pairs start again at the middle of 257 to 767 columns of a linear: the product is cut there."""


MLAS = Kernel(across_taps=True, depthwise=False, halves=False)
"""onnxruntime's QLinearConv, QLinearMatMul, MatMulInteger, QGemm of uint8 · int8. uint8 weights are exact."""
ONEDNN = Kernel(across_taps=False, depthwise=False, halves=True)
"""oneDNN in torch, at AVX2."""
ONEDNN_AVX512 = Kernel(across_taps=False, depthwise=False, halves=False)
"""oneDNN in torch, at AVX-512 without VNNI."""


@dataclass(frozen=True)
class Geometry:
    """The options of a convolution, one number for each spatial dimension."""

    stride: Sequence[int]
    padding: Sequence[int]
    dilation: Sequence[int]
    groups: int = 1


@dataclass
class Saturation:
    """What saturated, by output channel: int64 [out] each."""

    pairs: int = 0
    """All pairs that were added for one output channel."""
    saturated: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))
    largest_excess: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))
    """By how much the sum of one pair was beyond 16 bits."""


def pair_columns(channels: int, taps: int, kernel: Kernel) -> Tensor:
    """Return the columns of each pair, int64 [pairs, 2]; `channels · taps` stands for a partner that is missing."""
    columns = channels * taps
    if kernel.across_taps:
        parts = [range(columns)]
    elif taps > 1:
        parts = [range(tap * channels, (tap + 1) * channels) for tap in range(taps)]
    elif kernel.halves and 256 < columns < 768:
        middle = (columns + 1) // 2
        parts = [range(middle), range(middle, columns)]
    else:
        parts = [range(columns)]
    pairs = [(first, first + 1 if first + 1 in part else columns) for part in parts for first in part[::2]]
    return torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2)


def reach(weight: Tensor, kernel: Kernel, groups: int = 1, largest_input: int = LARGEST_INPUT) -> Tensor:
    """Return the largest |x_a · w_a + x_b · w_b| of each output for any inputs 0 … largest_input, int32 [out].

    `weight`: int8 [out, in / groups, *kernel]. 2¹⁵ or more means that the output can saturate; a single product can't.
    """
    if _is_spared(weight, kernel, groups):
        return torch.zeros(len(weight), dtype=torch.int32)
    first, second = _paired(columns_of(weight.to(torch.int32)), kernel, weight)
    upper = first.clamp(min=0) + second.clamp(min=0)
    lower = first.clamp(max=0) + second.clamp(max=0)
    return largest_input * torch.maximum(upper, -lower).amax(1)


def can_saturate(weight: Tensor, kernel: Kernel, groups: int = 1, largest_input: int = LARGEST_INPUT) -> Tensor:
    """Return whether an output can saturate for any inputs 0 … largest_input, bool [out]."""
    return reach(weight, kernel, groups, largest_input) > HIGH


def saturated_linear(
    values: Tensor, weight: Tensor, zero_point: int, kernel: Kernel, found: Saturation | None = None
) -> Tensor:
    """Return the sums (x − zero_point) · w that a saturating kernel gives, int32 [..., out].

    `values`: uint8 or int8 [..., in]; `weight`: int8 [out, in]. What saturated is added to `found`.
    """
    shifted, zero_point = _unsigned(values, zero_point)
    rows = shifted.reshape(-1, shifted.shape[-1])
    sums = _exact_product(rows, weight) - zero_point * weight.to(torch.int32).sum(1, dtype=torch.int32)
    sums -= _excess(rows, weight.to(torch.int32), pair_columns(weight.shape[1], 1, kernel), found)
    return sums.reshape(*values.shape[:-1], len(weight))


def saturated_convolution(
    values: Tensor,
    weight: Tensor,
    zero_point: int,
    geometry: Geometry,
    kernel: Kernel,
    *,
    found: Saturation | None = None,
) -> Tensor:
    """Return the sums that a saturating convolution gives, int32 [N, out, *spatial]; padding holds the zero point.

    `values`: uint8 or int8 [N, in, *spatial]; `weight`: int8 [out, in / groups, *kernel].
    """
    shifted, zero_point = _unsigned(values, zero_point)
    padded = _padded(shifted, zero_point, geometry)
    convolve = (functional.conv1d, functional.conv2d, functional.conv3d)[weight.dim() - 3]
    options = (tuple(geometry.stride), 0, tuple(geometry.dilation), geometry.groups)
    exact = convolve((padded - zero_point).to(torch.float64), weight.to(torch.float64), None, *options)
    sums = exact.to(torch.int32)
    if not _is_spared(weight, kernel, geometry.groups):
        for sample, group, rows in _patches(padded, weight, geometry):
            outputs = _group(len(weight), geometry.groups, group)
            columns = columns_of(weight[outputs].to(torch.int32))
            pairs = pair_columns(weight.shape[1], weight[0, 0].numel(), kernel)
            part = None if found is None else Saturation()
            lost = _excess(rows, columns, pairs, part)
            sums[sample, outputs] -= lost.t().reshape(-1, *sums.shape[2:])
            if found is not None and part is not None:
                _add(found, part, outputs, len(weight), counts=group == 0)
    return sums


def _excess(rows: Tensor, weight: Tensor, pairs: Tensor, found: Saturation | None) -> Tensor:
    """Return by how much pairs were beyond 16 bits, int32 [rows, out]: rows uint8 [rows, K], weight int32 [out, K]."""
    first, second = _at(weight, pairs)
    sums = first + second
    risky = (first.sign() * second.sign() > 0) & (LARGEST_INPUT * sums.abs() > HIGH)
    outputs, places = risky.nonzero(as_tuple=True)
    lost = torch.zeros(len(weight), len(rows), dtype=torch.int32)
    columns = functional.pad(rows, (0, 1)).t().contiguous()
    counts, largest = (torch.zeros(len(weight), dtype=torch.int64) for _ in range(2))
    step = max(1, MOST_ELEMENTS // max(len(rows), 1))
    for start in range(0, len(outputs), step):
        output, place = outputs[start : start + step], places[start : start + step]
        added = columns[pairs[place, 0]].to(torch.int32) * first[output, place, None]
        added += columns[pairs[place, 1]].to(torch.int32) * second[output, place, None]
        beyond = added - added.clamp(LOW, HIGH)
        lost.index_add_(0, output, beyond)
        if found is not None:
            counts.index_add_(0, output, (beyond != 0).sum(1))
            most = beyond.abs().amax(1).to(torch.int64) if len(rows) else torch.zeros_like(output)
            largest.scatter_reduce_(0, output, most, "amax")
    if found is not None:
        _add(found, Saturation(len(pairs) * len(rows), counts, largest), slice(None), len(weight), counts=True)
    return lost.t()


def _add(found: Saturation, part: Saturation, outputs: slice, count: int, *, counts: bool) -> None:
    """Add what was found for some of `count` output channels."""
    if len(found.saturated) != count:
        found.saturated, found.largest_excess = (torch.zeros(count, dtype=torch.int64) for _ in range(2))
    found.pairs += part.pairs if counts else 0
    found.saturated[outputs] += part.saturated
    found.largest_excess[outputs] = torch.maximum(found.largest_excess[outputs], part.largest_excess)


def _exact_product(rows: Tensor, weight: Tensor) -> Tensor:
    """Return rows · weightᵀ exactly, int32 [rows, out]: an integer product of torch may saturate itself."""
    sums = torch.zeros(len(rows), len(weight), dtype=torch.int32)
    for first in range(0, rows.shape[1], EXACT_COLUMNS):
        part = slice(first, first + EXACT_COLUMNS)
        sums += (rows[:, part].to(torch.float32) @ weight[:, part].to(torch.float32).t()).to(torch.int32)
    return sums


def _unsigned(values: Tensor, zero_point: int) -> tuple[Tensor, int]:
    """Return uint8 values and their zero point; int8 is shifted up by 128."""
    if values.dtype == torch.uint8:
        return values, zero_point
    return (values.to(torch.int16) + SHIFT).to(torch.uint8), zero_point + SHIFT


def _padded(values: Tensor, zero_point: int, geometry: Geometry) -> Tensor:
    ends = [end for size in reversed(geometry.padding) for end in (size, size)]
    return functional.pad(values.to(torch.int32), ends, value=zero_point)


def _patches(padded: Tensor, weight: Tensor, geometry: Geometry) -> Iterator[tuple[slice, int, Tensor]]:
    """Yield sample, group and its patches, uint8 [positions, taps · channels], one sample at a time."""
    sizes = weight.shape[2:]
    for sample, group in product(range(len(padded)), range(geometry.groups)):
        part = padded[sample, _group(padded.shape[1], geometry.groups, group)].to(torch.uint8)
        for axis, (size, stride, dilation) in enumerate(zip(sizes, geometry.stride, geometry.dilation, strict=True)):
            part = part.unfold(1 + axis, dilation * (size - 1) + 1, stride)[..., ::dilation]
        spatial = len(sizes)
        order = (*range(1, 1 + spatial), *range(1 + spatial, 1 + 2 * spatial), 0)
        yield slice(sample, sample + 1), group, part.permute(order).reshape(-1, weight[0].numel())


def _group(channels: int, groups: int, group: int) -> slice:
    size = channels // groups
    return slice(group * size, (group + 1) * size)


def _is_spared(weight: Tensor, kernel: Kernel, groups: int) -> bool:
    """Return whether each group has one input and one output channel, and so a kernel of its own that is exact."""
    return not kernel.depthwise and groups > 1 and weight.shape[1] == 1 and len(weight) == groups


def columns_of(weight: Tensor) -> Tensor:
    """Return a weight [out, in, *kernel] as [out, taps · in], in its dtype."""
    return weight.flatten(2).transpose(1, 2).flatten(1) if weight.dim() > 2 else weight


def _paired(columns: Tensor, kernel: Kernel, weight: Tensor) -> tuple[Tensor, Tensor]:
    taps = weight[0, 0].numel() if weight.dim() > 2 else 1
    return _at(columns, pair_columns(weight.shape[1], taps, kernel))


def _at(columns: Tensor, pairs: Tensor) -> tuple[Tensor, Tensor]:
    """Return the two weights of each pair, int32 [out, pairs]; 0 where a partner is missing."""
    extended = functional.pad(columns, (0, 1))
    return extended[:, pairs[:, 0]], extended[:, pairs[:, 1]]
