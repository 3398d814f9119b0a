"""What single channels of a layer's input were like: the spread that smoothing levels and outlier splits cut off."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class ChannelStatistics:
    """Over `positions` values of each of C channels: float32 [C] each, on the CPU."""

    positions: int
    minimum: Tensor
    maximum: Tensor
    magnitude: Tensor
    """Mean |x|."""

    @property
    def abs_max(self) -> Tensor:
        """max|x| of each channel [C]."""
        return torch.maximum(self.minimum.abs(), self.maximum.abs())

    @property
    def stacked(self) -> Tensor:
        """All of it as one tensor [3, C], to keep."""
        return torch.stack([self.minimum, self.maximum, self.magnitude])

    @classmethod
    def restored(cls, positions: int, stacked: Tensor) -> "ChannelStatistics":
        """What was `stacked`. Raises ValueError when it is not [3, C]."""
        if stacked.dim() != 2 or len(stacked) != 3 or positions < 1:
            raise ValueError("no statistics of channels")
        return cls(positions, *stacked.unbind())


def channel_statistics(values: Tensor, axis: int) -> ChannelStatistics:
    """Of float `values` [..., C, ...] with the channels at `axis`, counted from the end."""
    if axis == -1:
        rows = values.reshape(-1, values.shape[-1])
        low, high = torch.aminmax(rows, dim=0)
        magnitude = rows.abs().mean(0, dtype=torch.float32)
    else:
        others = tuple(dimension for dimension in range(values.dim()) if dimension != values.dim() + axis)
        low, high = values.amin(others), values.amax(others)
        magnitude = values.abs().mean(others, dtype=torch.float32)
    positions = values.numel() // values.shape[axis]
    return ChannelStatistics(positions, low.float().cpu(), high.float().cpu(), magnitude.cpu())


def combined(first: ChannelStatistics, second: ChannelStatistics) -> ChannelStatistics:
    """Of both sets of values."""
    positions = first.positions + second.positions
    share = second.positions / positions
    return ChannelStatistics(
        positions,
        torch.minimum(first.minimum, second.minimum),
        torch.maximum(first.maximum, second.maximum),
        torch.lerp(first.magnitude, second.magnitude, share),
    )
