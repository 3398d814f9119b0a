"""What an observer is: a choice of range, from statistics of what was seen or from the values themselves."""

from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

import torch
from torch import Tensor

from zeropoint.observers.statistics import Statistics
from zeropoint.primitives.qparams import QParams, QuantType, asymmetric_qparams, symmetric_qparams

Range = tuple[Tensor, Tensor]
"""Minimum and maximum, float32, both [C] or both []."""


@dataclass(frozen=True)
class QuantizationSpec:
    """What the range will become."""

    quant_type: QuantType
    scheme: Literal["symmetric", "asymmetric"]
    scale_dtype: torch.dtype = torch.float32
    """What the scale will be stored in; it is rounded to that before anything is laid on the grid."""

    def choose_qparams(self, minimum: Tensor, maximum: Tensor, axis: int | None = None) -> QParams:
        """The grid over a range."""
        choose = symmetric_qparams if self.scheme == "symmetric" else asymmetric_qparams
        return choose(minimum, maximum, self.quant_type, axis, self.scale_dtype)


class Observer(Protocol):
    """Decides; collecting is `statistics`' work. `qparams` alone makes a grid of the range."""

    needs_histogram: ClassVar[bool]
    """Whether `of_statistics` reads `statistics.histogram`."""

    def of_statistics(self, statistics: Statistics, spec: QuantizationSpec) -> Range:
        """The range [] of an activation."""

    def of_rows(self, rows: Tensor, spec: QuantizationSpec) -> Range:
        """The range [C] of a weight, from its values [C, n]: a row for each channel, or one row for all."""
