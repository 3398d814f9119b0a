"""Limit pairs of weights, so that kernels that add two products in 16 bits compute exact sums.

    |q_a| · X_a + |q_b| · X_b ≤ 2¹⁵ − 1      for neighbours a, b whose weights have one sign

X: the largest input of a column as an 8-bit integer, on calibration samples and with a margin; more for few samples.
Where a row of the
weight breaks this, its scale becomes larger, or single pairs become smaller, or both: whatever adds least noise,
Σ Var(x) · (w − ŵ)² over its columns. Then the row's weights move within the limit, to compensate for each other
(`coordinate_descent`). Other rows stay as they are. Which columns are neighbours depends on the library; the limit
holds for all of them (`simulation.saturation`). Means are left to bias correction, where a layer can have a bias.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional

from zeropoint.algorithms.column_inputs import ColumnInputs, bytes_of, column_inputs
from zeropoint.algorithms.context import AlgorithmContext, Layers
from zeropoint.algorithms.coordinate_descent import Bound, descend
from zeropoint.layers.quantize import with_quantized_values
from zeropoint.layers.quantized_layer import QuantizedLayer
from zeropoint.primitives.qparams import QINT8, QParams
from zeropoint.simulation.saturation import (
    HIGH,
    LARGEST_INPUT,
    MLAS,
    ONEDNN,
    SHIFT,
    can_saturate,
    columns_of,
    pair_columns,
)

KINDS = ("Linear", "Conv1d", "Conv2d", "Conv3d")
"""What the libraries multiply with 8-bit integers."""
MARGIN = 1.1
"""By how much the inputs of users may be larger than those that calibrate."""
ENOUGH_SAMPLES = 64
"""Of fewer, the largest inputs say less: X lies between them and the largest integer, where any input keeps the limit.

With 4 and 8 samples, the digits lost 9.8 and 1.4 dB to pairs that saturated on other samples.
"""
COARSER = (1.0, 1.04, 1.08, 1.13, 1.19, 1.26, 1.34, 1.43, 1.55, 1.7, 1.85, 2.0)
"""Factors of a row's scale to choose from. At 2 no pair can reach 16 bits."""
MOST_VALUES = 2**22
"""Values of a weight that are limited at once: 16 MiB in float32."""
MOST_BYTES = 2**28
"""Bytes for what is learnt about inputs in one pass over the samples."""


def limit_pairs(context: AlgorithmContext, layers: Layers) -> dict[str, QuantizedLayer]:
    """Return the layers that had to be changed, by name; a weight that several layers share stays equal in them."""
    able = {name: layer for name, layer in layers.items() if _multiplies_integers(layer) and _can_saturate(layer)}
    if not able:
        return {}
    limited: dict[str, QuantizedLayer] = {}
    for together in _rounds(able):
        inputs = column_inputs(context, {name: able[name] for names in together for name in names})
        for names in together:
            layers_of_weight = {name: able[name] for name in names if name in inputs}
            limited |= _limited_together(context, layers_of_weight, inputs)
    return {name: layer for name, layer in limited.items() if layer.limited_outputs}


def _limited_together(
    context: AlgorithmContext, layers: Layers, inputs: Mapping[str, ColumnInputs]
) -> dict[str, QuantizedLayer]:
    """Return the layers that share a weight, with the limits of all of them."""
    around_mean = all(context.has_own_bias(layer.layer) for layer in layers.values())
    samples = context.calibration.count
    found = [_Met.of(layer, inputs[name], samples, around_mean=around_mean) for name, layer in layers.items()]
    return {name: _limited(layer, reduce(_Met.join, found)) for name, layer in layers.items()}


def _rounds(layers: Layers) -> Iterator[list[list[str]]]:
    """Yield the names of layers that share a weight, in rounds for one pass over the samples each."""
    sharing: dict[str, list[str]] = {}
    for name, layer in layers.items():
        sharing.setdefault(str(layer.layer.weight_name), []).append(name)
    together, size = list[list[str]](), 0
    for names in sharing.values():
        needed = len(names) * bytes_of(layers[names[0]])
        if together and size + needed > MOST_BYTES:
            yield together
            together, size = [], 0
        together.append(names)
        size += needed
    yield together


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


@dataclass(frozen=True)
class _Met:
    """What a weight meets: largest inputs as unsigned integers, float32 [in], and covariances by block of columns."""

    largest: Tensor
    covariances: Sequence[Tensor]
    """float32 [groups, B, B] each."""

    @classmethod
    def of(cls, layer: QuantizedLayer, inputs: ColumnInputs, samples: int, *, around_mean: bool) -> "_Met":
        """Return them for one layer."""
        assert layer.activation is not None
        largest = _as_integers(inputs.largest * MARGIN, layer.activation.qparams)
        largest += (LARGEST_INPUT - largest) * max(0.0, 1 - samples / ENOUGH_SAMPLES)
        return cls(largest, inputs.moments.covariances(samples, around_mean=around_mean))

    def join(self, other: "_Met") -> "_Met":
        """Merge those of two layers that share a weight."""
        covariances = [first + second for first, second in zip(self.covariances, other.covariances, strict=True)]
        return _Met(torch.maximum(self.largest, other.largest), covariances)


def _limited(layer: QuantizedLayer, met: _Met) -> QuantizedLayer:
    """Return the layer with the rows limited that break the limit."""
    assert layer.qparams is not None
    columns = _Columns.of(layer, met)
    exact, values = columns_of(layer.target_weight.float()), columns_of(layer.weight.float())
    rows = torch.cat([_breaks(part, columns, at) for at, part in _blocks(values)]).nonzero().flatten()
    if not len(rows):
        return layer
    scale = layer.qparams.scale.clone()
    if not layer.qparams.per_row:
        values = _within(values, columns.at(torch.arange(len(values))))
    for chosen in torch.split(rows, max(1, MOST_VALUES // values.shape[1])):
        if layer.qparams.per_row:
            values[chosen], coarser = _least_noise(exact[chosen], values[chosen], scale[chosen], columns.at(chosen))
            scale[chosen] *= coarser.reshape(-1, *[1] * (scale.dim() - 1))
        if layer.qparams.group_size is None:  # else a row's columns have different steps
            wanted = exact[chosen] / scale.expand(len(values))[chosen, None]
            values[chosen] = _compensated(values[chosen], wanted, columns, met.covariances, columns.groups[chosen])
    changed = replace(layer, qparams=replace(layer.qparams, scale=scale), rounding="limited", limited_outputs=len(rows))
    return with_quantized_values(changed, _as_weight(values, layer.weight))


def _compensated(
    values: Tensor, exact: Tensor, columns: "_Columns", covariances: Sequence[Tensor], groups: Tensor
) -> Tensor:
    """Return quantized values [rows, K] within the limit that are best together, going by the covariances."""
    values = values.clone()
    for group in sorted(set(groups.tolist())):
        rows = groups == group
        moving, wanted, bound = values[rows].T.contiguous(), exact[rows].T.contiguous(), columns.bound(group)
        first = 0
        for covariance in covariances:
            descend(moving, wanted, covariance[group], first, bound)
            first += covariance.shape[1]
        values[rows] = moving.T
    return values


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
    def of(cls, layer: QuantizedLayer, met: _Met) -> "_Columns":
        """Lay the columns out by groups: largest inputs and variances are [groups, K]."""
        count, groups = layer.weight.shape[1], _groups(layer)
        taps = layer.weight[0, 0].numel() if layer.weight.dim() > 2 else 1
        orders = [pair_columns(count, taps, kernel) for kernel in (MLAS, ONEDNN)]
        pairs = tuple(orders[:1] if torch.equal(*orders) else orders)
        of_row = torch.arange(len(layer.weight)) // (len(layer.weight) // groups)
        variance = torch.cat([part.diagonal(dim1=1, dim2=2) for part in met.covariances], 1)
        return cls(pairs, met.largest.reshape(groups, count).repeat(1, taps), variance, taps, of_row)

    def at(self, rows: Tensor) -> "_Columns":
        """Return those of some rows."""
        groups = self.groups[rows]
        return replace(self, largest=self.largest[groups], variance=self.variance[groups])

    def bound(self, group: int) -> Bound:
        """Return what keeps a column of a group within the limit, for the values that its partners have."""
        largest = self.largest[group].tolist()
        partners: list[list[int]] = [[] for _ in largest]
        for a, b in sorted({(a, b) for pairs in self.pairs for a, b in pairs.tolist()}):
            if b < len(largest) and QINT8.quant_max * (largest[a] + largest[b]) > HIGH:
                partners[a].append(b)
                partners[b].append(a)

        def keep(wanted: Tensor, column: int, values: Tensor) -> None:
            for partner in partners[column]:
                beside = values[partner]
                room = beside.abs().mul_(-largest[partner]).add_(HIGH).div_(largest[column]).floor_()
                sign = torch.ones_like(beside).copysign_(beside)  # that of 0 does not matter: there is room for all
                wanted.mul_(sign).copy_(torch.minimum(wanted, room)).mul_(sign)

        return keep


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
