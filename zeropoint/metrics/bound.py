"""What fresh samples will show: bounds by bootstrap on an SQNR and on a mean loss, from the rows of one measurement.

    D = SQNR of M rows resampled − SQNR of m rows resampled, in dB        margin = −(the 3 % quantile of D)

Both draws are with replacement from the m measured rows: the first stands for the fresh samples, the second for the
measured ones, which were drawn by chance as well. So `measured − margin` is a predictive bound: at least 95 % of fresh
sets of M rows reach it. Source: Efron and Tibshirani, "An Introduction to the Bootstrap" (1993), chapters 12 and 25.

* Rows whose neighbours are alike are drawn in blocks (Künsch, Annals of Statistics 1989; circular: Politis and Romano
  1992), of the length over which the noise is correlated.
* m rows show less spread than there is: margins grow by √(u / (u − 1)) · t / z, with u blocks, and Student's t.
* Few rows hardly show how noisy a row can be: a block with 1.5 times the noise of the noisiest row is put among them.
  Without it, bounds on noise with heavy tails are missed twice as often as they should be.
* One of several measurements of the same rows is chosen afterwards. Their margins hold for all of them at once: each is
  c standard deviations of its own D, and c is the 97 % quantile of the largest of all −D / sd(D) in one draw.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from zeropoint.metrics.rows import Rows

MISSES = 0.03
"""How often fresh samples fall below a bound, by the rows: less than 5 %, since the same rows also chose algorithms."""
DRAWS = 2000
MOST_FRESH = 4096
"""So many fresh rows have hardly any spread of their own."""
FEWEST_BLOCKS = 3
UNKNOWN_DB = 3.0
"""The margin in dB where fewer blocks than that show no spread."""
UNSEEN = 1.5
"""The noise of the block that is put among the rows, as a multiple of the noisiest row's noise-to-signal ratio."""
_Z = 1.6449


def margins_db(measured: Sequence[Rows], fresh: int, *, least_length: int = 1) -> list[float]:
    """Return the margin in dB of each SQNR, all measured on the same rows, for `fresh` further rows.

    `least_length`: rows are drawn in blocks of at least so many, whether their noise is correlated or not.
    """
    if not measured:
        return []
    signal, noise = (torch.stack([rows.tensors[side] for rows in measured]) for side in (0, 1))
    rows = signal.shape[1]
    length = max(block_length(noise.mean(0), signal.mean(0)), least_length) if rows else 1
    blocks = rows // length
    if blocks < FEWEST_BLOCKS:
        return [UNKNOWN_DB] * len(measured)
    signal, noise = _with_unseen(signal, noise, length)
    generator = torch.Generator().manual_seed(0)
    rows = signal.shape[1]
    before = _db(_counts(rows, rows, length, generator), signal, noise)
    after = _db(_counts(rows, min(max(fresh, 1), MOST_FRESH), length, generator), signal, noise)
    loss = torch.nan_to_num(before - after, nan=0.0, posinf=0.0, neginf=0.0)
    spread = loss.std(0).clamp(min=1e-9)
    factor = float((loss / spread).amax(1).quantile(1 - MISSES)) * _few(blocks)
    return [max(factor * float(one), 0.0) for one in spread]


def _with_unseen(signal: Tensor, noise: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """Return signal and noise [measurements, rows] with one more block, noisier than any of the rows."""
    usual = signal.mean(1)
    worst = UNSEEN * (noise / signal.clamp(min=1e-300)).where(signal > 0, 0.0).amax(1) * usual
    signal, noise = (
        torch.cat([side, block[:, None].expand(-1, length)], 1) for side, block in ((signal, usual), (noise, worst))
    )
    return signal, noise


def block_length(noise: Tensor, signal: Tensor) -> int:
    """Return over how many neighbouring rows the noise-to-signal ratio [rows] is correlated; 1 when it is not.

    This is the integrated autocorrelation 1 + 2 Σ ρ_k, up to the first ρ_k that chance explains (2 / √rows).
    """
    ratio = (noise.clamp(min=1e-300) / signal.clamp(min=1e-300)).log()
    centred = ratio - ratio.mean()
    energy = float(centred.square().sum())
    length = 1.0
    for lag in range(1, len(ratio) // 2):
        correlation = float((centred[lag:] * centred[:-lag]).sum()) / energy if energy > 0 else 0.0
        if not correlation > 2 / math.sqrt(len(ratio)):
            break
        length += 2 * correlation
    return max(1, min(math.ceil(length - 1e-9), len(ratio)))


def loss_margin(losses: Tensor, fresh: int) -> float:
    """Return by how much the mean loss of `fresh` further rows may exceed that of `losses` [rows], each in −1..1.

    One more row that lost everything is put among them: rows without any loss don't show that there is none. With n
    such rows the bound is about 3 / n, as the rule of three says (Hanley and Lippman-Hand, JAMA 1983).
    """
    rows = torch.cat([losses.double().flatten(), torch.ones(1, dtype=torch.float64)])
    generator = torch.Generator().manual_seed(0)
    before = _counts(len(rows), len(rows), 1, generator) @ rows / len(rows)
    size = min(max(fresh, 1), MOST_FRESH)
    after = _counts(len(rows), size, 1, generator) @ rows / size
    return float((after - before).quantile(1 - MISSES))


def _counts(rows: int, drawn: int, length: int, generator: torch.Generator) -> Tensor:
    """Return how often each row is drawn, float64 [DRAWS, rows], in circular blocks of `length`."""
    starts = torch.randint(0, rows, (DRAWS, math.ceil(drawn / length)), generator=generator)
    places = ((starts[:, :, None] + torch.arange(length)) % rows).flatten(1)[:, :drawn]
    counts = torch.zeros(DRAWS, rows, dtype=torch.float64)
    return counts.scatter_add_(1, places, torch.ones(places.shape, dtype=torch.float64))


def _db(counts: Tensor, signal: Tensor, noise: Tensor) -> Tensor:
    """Return the SQNR in dB of each draw, [DRAWS, measurements]."""
    return 10 * ((counts @ signal.T) / (counts @ noise.T)).log10()


def _few(blocks: int) -> float:
    """Return by how much the spread of so many blocks is too small: √(u / (u − 1)) · t / z.

    Student's t is taken from its expansion in 1 / ν (Abramowitz and Stegun, 26.7.5).
    """
    freedom = blocks - 1
    student = _Z + (_Z**3 + _Z) / (4 * freedom) + (5 * _Z**5 + 16 * _Z**3 + 3 * _Z) / (96 * freedom**2)
    return math.sqrt(blocks / freedom) * student / _Z
