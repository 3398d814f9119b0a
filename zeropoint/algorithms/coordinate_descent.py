"""Coordinate descent: move quantized weights one by one, so that others compensate for what one of them had to give up.

    min (q − w) · C · (q − w)ᵀ        q_j ← round(q_j − (C · (q − w))_j / C_jj), within the bounds of q_j

C is the covariance of the inputs: the sum is the variance of an output's error. Source: Behdin et al., "QuantEase"
(2023), which has no bounds besides those of the grid. No step makes the sum larger, so it is safe from any start.

There is one pass over the columns. A second one fits the samples closer, and inputs unlike them less: CREPE's other
notes lose 1 to 2 dB by it, and no network gains more than 0.2.
"""

from collections.abc import Callable

from torch import Tensor

from zeropoint.primitives.qparams import QINT8

Bound = Callable[[Tensor, int, Tensor], None]
"""Called with wanted values [rows] of a column, its number and all values [K, rows]; changes what is not allowed."""


def descend(values: Tensor, exact: Tensor, covariance: Tensor, first: int, bound: Bound) -> None:
    """Move the columns from `first` on of quantized values [K, rows], in place, towards the `exact` values [K, rows].

    `covariance`: [B, B] of these columns, positive on the diagonal. All values are float32 in steps of the grid.
    """
    columns = slice(first, first + len(covariance))
    slopes = covariance @ (values[columns] - exact[columns])
    for place, curvature in enumerate(covariance.diagonal().tolist()):
        column = first + place
        wanted = (values[column] - slopes[place] / curvature).round_().clamp_(QINT8.quant_min, QINT8.quant_max)
        bound(wanted, column, values)
        slopes[place:].addr_(covariance[place:, place], wanted - values[column])
        values[column] = wanted
