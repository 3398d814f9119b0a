"""The interface of observers, which choose a range from collected statistics or from the values themselves."""

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
    """How the values of a range will be quantized."""

    quant_type: QuantType
    scheme: Literal["symmetric", "asymmetric"]
    scale_dtype: torch.dtype = torch.float32
    """The dtype that the scale will be stored in, to which it is rounded before any value is quantized."""

    def choose_qparams(self, minimum: Tensor, maximum: Tensor, axis: int | None = None) -> QParams:
        """Choose the qparams for a range, both ends [C] or []."""
        choose = symmetric_qparams if self.scheme == "symmetric" else asymmetric_qparams
        return choose(minimum, maximum, self.quant_type, axis, self.scale_dtype)


class Observer(Protocol):
    """Chooses ranges from what `statistics` collects; `QuantizationSpec` computes the qparams from a range."""

    needs_histogram: ClassVar[bool]
    """Whether `of_statistics` reads `statistics.histogram`."""

    def of_statistics(self, statistics: Statistics, spec: QuantizationSpec) -> Range:
        """Return the range [] of an activation."""

    def of_rows(self, rows: Tensor, spec: QuantizationSpec) -> Range:
        """Return the range [C] of a weight, from its values [C, n]: a row for each channel, or one row for all."""
