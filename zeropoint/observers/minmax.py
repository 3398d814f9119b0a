"""Min-max: the range is the smallest and the largest value."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from zeropoint.observers.observer import QuantizationSpec, Range
from zeropoint.observers.statistics import Statistics


@dataclass(frozen=True)
class MinMax:
    """Chooses the full range, so that no value is clipped."""

    needs_histogram: ClassVar[bool] = False

    def of_statistics(self, statistics: Statistics, _: QuantizationSpec) -> Range:
        return torch.tensor(statistics.minimum), torch.tensor(statistics.maximum)

    def of_rows(self, rows: Tensor, _: QuantizationSpec) -> Range:
        low, high = torch.aminmax(rows.to(torch.float32), dim=-1)
        return low, high
