"""Find whether neighbouring samples are alike, as windows of one recording are, or frames of one film.

    ratio = mean ‖x_i − x_{i+1}‖² / mean ‖x_i − x_j‖²,   j far from i

It is about 1 for samples in random order (von Neumann, Annals of Mathematical Statistics 1941). It is taken of the
values, and of the logarithm of each sample's energy: windows of sound differ in every value, and are equally loud. For
integers, the share of unequal elements takes the place of squares.
"""

import torch
from torch import Tensor

from zeropoint.data.batches import Batches, ModelInputs, Samples
from zeropoint.data.dataset import first_of
from zeropoint.data.padding import MASK

ALIKE = 0.5
"""A smaller ratio is that of neighbours: chance alone gives it to 24 samples once in a hundred."""
FEWEST, MOST = 24, 128
"""Fewer samples say nothing; so many are enough."""
MOST_VALUES = 2**16
"""Of larger samples, evenly spaced values stand for all."""


def neighbours_alike(samples: Batches) -> bool:
    """Return whether samples resemble their neighbours more than others, in any floating input, or else in integers."""
    if not isinstance(samples, Samples):
        return False
    inputs = _inputs(samples)
    floating = [rows for rows in inputs if rows.is_floating_point()]
    measures = [measure for rows in floating for measure in (rows.flatten(1).double(), _log_energy(rows))]
    ratios = [_ratio(values) for values in measures] or [_ratio_of_integers(rows) for rows in inputs]
    return any(ratio is not None and ratio < ALIKE for ratio in ratios)


def _inputs(samples: Samples) -> list[Tensor]:
    """Return the first samples of each input but masks, [samples, values]."""
    parts: list[list[Tensor]] = []
    for batch in first_of(samples, MOST):
        names = batch.names if isinstance(batch, ModelInputs) else [""] * len(batch)
        kept = [tensor for name, tensor in zip(names, batch, strict=True) if not name.endswith(MASK) and tensor.dim()]
        parts = parts or [[] for _ in kept]
        for part, tensor in zip(parts, kept, strict=True):
            values = tensor.detach().cpu().reshape(len(tensor), -1)
            part.append(values[:, :: max(1, values.shape[1] // MOST_VALUES)])
    return [torch.cat(part) for part in parts if len({rows.shape[1] for rows in part}) == 1]


def _log_energy(rows: Tensor) -> Tensor:
    """Return the logarithm of each sample's mean square, [samples, 1]."""
    return rows.double().square().mean(1, keepdim=True).clamp(min=1e-30).log()


def _ratio(rows: Tensor) -> float | None:
    """Return how far neighbours are apart, as a share of how far any two are; None where that isn't known."""
    if len(rows) < FEWEST:
        return None
    apart = 2 * float((rows - rows.mean(0)).square().sum()) / (len(rows) - 1)
    return float(rows.diff(dim=0).square().sum()) / (len(rows) - 1) / apart if apart > 0 else None


def _ratio_of_integers(rows: Tensor) -> float | None:
    if len(rows) < FEWEST:
        return None
    far = len(rows) // 2
    apart = float((rows[far:] != rows[: len(rows) - far]).double().mean())
    return float((rows[1:] != rows[:-1]).double().mean()) / apart if apart > 0 else None
