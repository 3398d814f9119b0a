"""Limit pairs of weights, so that kernels that add two products in 16 bits compute exact sums.

    |q_a| · X_a + |q_b| · X_b ≤ 2¹⁵ − 1      for neighbours a, b whose weights have one sign

X: the largest input of a column as an 8-bit integer, on calibration samples and with a margin. Where a row of the
weight breaks this, its scale becomes larger, or single pairs become smaller, or both: whatever adds least noise,
Σ Var(x) · (w − ŵ)² over its columns. Other rows stay as they are. Which columns are neighbours depends on the library;
the limit holds for all of them (`simulation.saturation`). Means are left to bias correction.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional

from zeropoint.algorithms.context import AlgorithmContext, Layers, watch_inputs
from zeropoint.data.padding import visible
from zeropoint.layers.quantize import with_quantized_values
from zeropoint.layers.quantized_layer import QuantizedLayer
from zeropoint.primitives.qparams import QINT8, QParams
from zeropoint.simulation.saturation import HIGH, MLAS, ONEDNN, SHIFT, can_saturate, columns_of, pair_columns

KINDS = ("Linear", "Conv1d", "Conv2d", "Conv3d")
"""What the libraries multiply with 8-bit integers."""
MARGIN = 1.1
"""By how much the inputs of users may be larger than those that calibrate."""
COARSER = (1.0, 1.04, 1.08, 1.13, 1.19, 1.26, 1.34, 1.43, 1.55, 1.7, 1.85, 2.0)
"""Factors of a row's scale to choose from. At 2 no pair can reach 16 bits."""
MOST_VALUES = 2**22
"""Values of a weight that are limited at once: 16 MiB in float32."""


@dataclass
class Inputs:
    """What the columns of a layer meet, in the input that its operator reads: float64 [in] each."""

    count: int
    total: Tensor
    squares: Tensor
    largest: Tensor

    @property
    def variance(self) -> Tensor:
        """Return Var(x), float64 [in]."""
        return (self.squares / self.count - (self.total / self.count) ** 2).clamp(min=0)

    def join(self, other: "Inputs") -> "Inputs":
        """Merge two sets of values."""
        largest = torch.maximum(self.largest, other.largest)
        return Inputs(self.count + other.count, self.total + other.total, self.squares + other.squares, largest)


def limit_pairs(context: AlgorithmContext, layers: Layers) -> dict[str, QuantizedLayer]:
    """Return the layers that had to be changed, by name; a weight that several layers share stays equal in them."""
    able = {name: layer for name, layer in layers.items() if _multiplies_integers(layer) and _can_saturate(layer)}
    if not able:
        return {}
    channels = {name: _Channels.of(able[name], inputs) for name, inputs in _observed(context, able).items()}
    shared: dict[str, _Channels] = {}
    for name, found in channels.items():
        weight = str(able[name].layer.weight_name)
        shared[weight] = shared[weight].join(found) if weight in shared else found
    limited = {name: _limited(able[name], shared[str(able[name].layer.weight_name)]) for name in channels}
    return {name: layer for name, layer in limited.items() if layer.limited_outputs}


def may_saturate(layers: Iterable[QuantizedLayer]) -> bool:
    """Return whether a kernel can pass 16 bits in one of these layers, for any input."""
    return any(_multiplies_integers(layer) and _can_saturate(layer) for layer in layers)


def _multiplies_integers(layer: QuantizedLayer) -> bool:
    """Return whether libraries multiply this layer's weight as int8 by 8-bit inputs."""
    activation, qparams = layer.activation, layer.qparams
    if activation is None or qparams is None or layer.layer.kind not in KINDS or layer.layer.is_held:
        return False
    integers = not activation.qparams.quant_type.dtype.is_floating_point
    return integers and qparams.quant_type == QINT8 and qparams.axis in (None, 0)


def _can_saturate(layer: QuantizedLayer) -> bool:
    return any(bool(can_saturate(layer.weight, kernel, _groups(layer)).any()) for kernel in (MLAS, ONEDNN))


def _groups(layer: QuantizedLayer) -> int:
    return int(getattr(layer.layer.module, "groups", 1))


def _observed(context: AlgorithmContext, layers: Layers) -> dict[str, Inputs]:
    """Return what the float model's calibration samples give as inputs, by layer name."""
    seen: dict[str, Inputs] = {}

    def add(name: str, values: Tensor, mask: Tensor | None) -> None:
        layer = layers[name]
        values = visible(layer.scale_input(values), mask)
        if values.numel():
            found = _inputs(values, layer.layer.channel_axis or -1)
            seen[name] = seen[name].join(found) if name in seen else found

    watch_inputs(context, layers, add)
    return seen


def _inputs(values: Tensor, axis: int) -> Inputs:
    """Return what a batch of inputs [..., in, ...] holds, with the channels at `axis`, counted from the end."""
    rows = values.movedim(axis, -1).reshape(-1, values.shape[axis]).float()
    sums = (rows.sum(0), rows.square().sum(0), rows.amax(0))
    return Inputs(len(rows), *(part.double().cpu() for part in sums))


@dataclass(frozen=True)
class _Channels:
    """What the channels of a weight meet: largest inputs as unsigned integers, and Var(x), float32 [in] each."""

    largest: Tensor
    variance: Tensor

    @classmethod
    def of(cls, layer: QuantizedLayer, inputs: Inputs) -> "_Channels":
        """Return them for one layer."""
        assert layer.activation is not None
        return cls(_as_integers(inputs.largest * MARGIN, layer.activation.qparams), inputs.variance.float())

    def join(self, other: "_Channels") -> "_Channels":
        """Merge those of two layers that share a weight."""
        return _Channels(torch.maximum(self.largest, other.largest), self.variance + other.variance)


def _limited(layer: QuantizedLayer, channels: _Channels) -> QuantizedLayer:
    """Return the layer with the rows limited that break the limit."""
    assert layer.qparams is not None
    columns = _Columns.of(layer, channels)
    exact, values = columns_of(layer.target_weight.float()), columns_of(layer.weight.float())
    rows = torch.cat([_breaks(part, columns, at) for at, part in _blocks(values)]).nonzero().flatten()
    if not len(rows):
        return layer
    scale = layer.qparams.scale.clone()
    if layer.qparams.per_row:
        for chosen in torch.split(rows, max(1, MOST_VALUES // values.shape[1])):
            values[chosen], coarser = _least_noise(exact[chosen], values[chosen], scale[chosen], columns.at(chosen))
            scale[chosen] *= coarser.reshape(-1, *[1] * (scale.dim() - 1))
    else:
        values = _within(values, columns.at(torch.arange(len(values))))
    changed = replace(layer, qparams=replace(layer.qparams, scale=scale), rounding="limited", limited_outputs=len(rows))
    return with_quantized_values(changed, _as_weight(values, layer.weight))


@dataclass(frozen=True)
class _Columns:
    """The columns of a weight, taps first: their pairs, and for each row largest inputs and variances [rows, K]."""

    pairs: tuple[Tensor, ...]
    """int64 [pairs, 2] for each order of the libraries; K stands for a partner that is missing."""
    largest: Tensor
    variance: Tensor
    taps: int
    groups: Tensor
    """The group of each row, int64 [out]."""

    @classmethod
    def of(cls, layer: QuantizedLayer, channels: _Channels) -> "_Columns":
        """Lay the channels of inputs out by groups."""
        count, groups = layer.weight.shape[1], _groups(layer)
        taps = layer.weight[0, 0].numel() if layer.weight.dim() > 2 else 1
        orders = [pair_columns(count, taps, kernel) for kernel in (MLAS, ONEDNN)]
        pairs = tuple(orders[:1] if torch.equal(*orders) else orders)
        of_row = torch.arange(len(layer.weight)) // (len(layer.weight) // groups)
        spread = channels.variance + 1e-12 * channels.variance.mean() + 1e-30
        return cls(pairs, channels.largest.reshape(groups, count), spread.reshape(groups, count), taps, of_row)

    def at(self, rows: Tensor) -> "_Columns":
        """Return those of some rows, repeated for each tap."""
        groups = self.groups[rows]
        largest, variance = (part[groups].repeat(1, self.taps) for part in (self.largest, self.variance))
        return replace(self, largest=largest, variance=variance)


def _as_integers(values: Tensor, qparams: QParams) -> Tensor:
    """Return inputs as the unsigned integers that are multiplied, at least the zero point, which padding holds."""
    quant_type, zero_point = qparams.quant_type, int(qparams.zero_point)
    shift = SHIFT if quant_type.dtype == torch.int8 else 0
    integers = torch.round(values / float(qparams.scale)) + zero_point
    return (integers.clamp(zero_point, quant_type.quant_max) + shift).float()


def _breaks(values: Tensor, columns: _Columns, rows: Tensor) -> Tensor:
    """Return whether rows of quantized values [rows, K] break the limit, bool [rows]."""
    return (_within(values, columns.at(rows)) != values).any(1)


def _least_noise(exact: Tensor, values: Tensor, scale: Tensor, columns: _Columns) -> tuple[Tensor, Tensor]:
    """Return quantized values [rows, K] within the limit, and the factors [rows] of their scales."""
    best, least, chosen = values, torch.full((len(values),), torch.inf), torch.ones(len(values))
    steps = _by_column(scale, exact.shape[1], columns.taps)
    for factor in COARSER:
        rounded = (
            values if factor == 1 else (exact / (steps * factor)).round_().clamp_(QINT8.quant_min, QINT8.quant_max)
        )
        limited = _within(rounded, columns)
        noise = (columns.variance * (exact - limited * steps * factor).square_()).sum(1)
        better = noise < least
        best, least = torch.where(better[:, None], limited, best), torch.where(better, noise, least)
        chosen = torch.where(better, factor, chosen)
    return best, chosen


def _by_column(scale: Tensor, columns: int, taps: int) -> Tensor:
    """Return scales [rows] or [rows, groups of columns] as [rows, columns]."""
    parts = scale.reshape(len(scale), -1)
    return parts.repeat_interleave(columns // taps // parts.shape[1], dim=1).repeat(1, taps)


def _within(values: Tensor, columns: _Columns) -> Tensor:
    """Return quantized values [rows, K] with pairs made smaller until they keep the limit.

    Of the excess e, a column takes e · X / Var(x) / Σ X² / Var(x): the least noise for what is needed.
    """
    values, largest = functional.pad(values, (0, 1)), functional.pad(columns.largest, (0, 1), value=1.0)
    variance = functional.pad(columns.variance, (0, 1), value=1.0)
    for pairs in columns.pairs:
        first, second = pairs.unbind(1)
        (a, b), (of_a, of_b) = (tuple(part[:, pairs.T.reshape(-1)].chunk(2, 1)) for part in (values, largest))
        excess = (a.abs() * of_a + b.abs() * of_b - HIGH) * (a * b > 0)
        if not bool((excess > 0).any()):
            continue
        share_a, share_b = of_a / variance[:, first], of_b / variance[:, second]
        needed = excess.clamp(min=0) / (of_a * share_a + of_b * share_b)
        new_a = (a.abs() - needed * share_a).round_().clamp_(min=0)
        new_b = torch.minimum(b.abs(), ((HIGH - new_a * of_a) / of_b).floor_().clamp_(min=0))
        new_a = torch.minimum(new_a, ((HIGH - new_b * of_b) / of_a).floor_())
        values[:, first] = torch.where(excess > 0, new_a * a.sign(), a)
        values[:, second] = torch.where(excess > 0, new_b * b.sign(), b)
    return values[:, :-1]


def _blocks(values: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the numbers of some rows, and their values."""
    size = max(1, MOST_VALUES // values.shape[1])
    for start, stop in pairwise([*range(0, len(values), size), len(values)]):
        yield torch.arange(start, stop), values[start:stop]


def _as_weight(columns: Tensor, weight: Tensor) -> Tensor:
    """Return columns [out, K], taps first, in the shape, dtype and strides of the weight.

    Other strides, which `contiguous` may keep where a kernel has one tap, would make torch export other operators.
    """
    if weight.dim() > 2:
        columns = columns.reshape(len(weight), -1, weight.shape[1]).transpose(1, 2)
    return torch.empty_like(weight).copy_(columns.reshape(weight.shape))
