"""Statistics of each channel of a layer's input, for algorithms that treat channels differently."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class ChannelStatistics:
    """Statistics over `positions` values of each of C channels: float32 [C] each, on the CPU."""

    positions: int
    minimum: Tensor
    maximum: Tensor
    magnitude: Tensor
    """Mean |x|."""

    @property
    def abs_max(self) -> Tensor:
        """The largest |x| of each channel [C]."""
        return torch.maximum(self.minimum.abs(), self.maximum.abs())

    @property
    def stacked(self) -> Tensor:
        """Minimum, maximum and magnitude as one tensor [3, C], for storage."""
        return torch.stack([self.minimum, self.maximum, self.magnitude])

    @classmethod
    def restored(cls, positions: int, stacked: Tensor) -> "ChannelStatistics":
        """Return the statistics that were `stacked`. Raises ValueError when it is not [3, C]."""
        if stacked.dim() != 2 or len(stacked) != 3 or positions < 1:
            raise ValueError("no statistics of channels")
        return cls(positions, *stacked.unbind())


def channel_statistics(values: Tensor, axis: int) -> ChannelStatistics:
    """Return the statistics of float `values` [..., C, ...] with the channels at `axis`, counted from the end."""
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


def merge_channels(first: ChannelStatistics, second: ChannelStatistics) -> ChannelStatistics:
    """Merge the statistics of two sets of values."""
    positions = first.positions + second.positions
    share = second.positions / positions
    return ChannelStatistics(
        positions,
        torch.minimum(first.minimum, second.minimum),
        torch.maximum(first.maximum, second.maximum),
        torch.lerp(first.magnitude, second.magnitude, share),
    )
