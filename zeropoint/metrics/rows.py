"""The signal and noise of each sample, from which the spread over samples is estimated.

Outputs [N, ...] of a batch with N samples give N rows. Where an output counts something else first, the batch is one
row: its samples can't be told apart.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from zeropoint.data.padding import visible
from zeropoint.metrics.sqnr import Noise


@dataclass(frozen=True)
class Rows:
    """Energies by row, in the order of the samples: one entry for each sample, or for each batch."""

    signal: list[float] = field(default_factory=list)
    noise: list[float] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.signal)

    def add(self, expected: Tensor, output: Tensor, samples: int | None, mask: Tensor | None) -> None:
        """Add an output of one batch of both models, a row for each sample, or one row (None).

        `mask` [N, T] tells which positions count.
        """
        for row in range(samples) if samples is not None else [None]:
            noise = Noise()
            noise.add(_row(expected, row, mask), _row(output, row, mask))
            self.signal.append(noise.signal)
            self.noise.append(noise.noise)

    @property
    def tensors(self) -> tuple[Tensor, Tensor]:
        """Signal and noise, float64 [rows] each."""
        return torch.tensor(self.signal, dtype=torch.float64), torch.tensor(self.noise, dtype=torch.float64)


def can_split(outputs: Sequence[Tensor], samples: int) -> bool:
    """Return whether the first dimension of all outputs counts the samples of the batch."""
    return all(output.dim() > 0 and len(output) == samples for output in outputs)


def pooled_rows(outputs: Sequence[Rows]) -> Rows:
    """Return the sums over outputs that differ; over all of them if none does (as `metrics.sqnr.pooled`)."""
    parts = [rows for rows in outputs if any(rows.noise)] or list(outputs)
    signal = [sum(row) for row in zip(*(rows.signal for rows in parts), strict=True)]
    return Rows(signal, [sum(row) for row in zip(*(rows.noise for rows in parts), strict=True)])


def _row(values: Tensor, row: int | None, mask: Tensor | None) -> Tensor:
    """Return the values of one sample that count; those of all samples where `row` is None."""
    if row is None:
        return visible(values, mask)
    return visible(values[row : row + 1], None if mask is None else mask[row : row + 1])
