"""How close two results are, as running sums over any number of tensors and batches.

SQNR = 10·log10(Σ float² / Σ (float − quantized)²) dB        cosine = Σ float·quantized / √(Σ float² · Σ quantized²)
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

BLOCK = 2**20


@dataclass
class Noise:
    """Running energies of signal and noise, in float64. They sum over any number of tensors and batches."""

    signal: float = 0.0
    noise: float = 0.0

    def add(self, reference: Tensor, approximation: Tensor) -> None:
        """Add two tensors of one shape. Non-finite noise makes the result NaN, never a good number.

        Values that are the same infinity on both sides, or NaN on both, are left out: scores that a mask hides.
        """
        for exact, other in map(without_masked, _in_blocks(reference, approximation)):
            self.signal += float(exact.square().sum())
            self.noise += float((exact - other).square().sum())

    def join(self, other: "Noise") -> None:
        """Add the sums of another one."""
        self.signal += other.signal
        self.noise += other.noise

    @property
    def exact(self) -> bool:
        """Whether no value differed."""
        return self.noise == 0.0

    @property
    def db(self) -> float | None:
        """The SQNR in dB; None when exact; −inf (all noise, no signal) and NaN are reported as they are."""
        if self.exact:
            return None
        if not math.isfinite(self.signal) or not math.isfinite(self.noise):
            return math.nan
        return 10 * math.log10(self.signal / self.noise) if self.signal > 0 else -math.inf


def pooled(noises: Iterable[Noise]) -> Noise:
    """Return the sums over outputs that differ; over all of them if none does.

    An output that equals the float one (an input passed through) has signal and no noise: it would raise the number of
    the others.
    """
    everything, total = list(noises), Noise()
    for noise in [noise for noise in everything if not noise.exact] or everything:
        total.join(noise)
    return total


def finite(value: float | None) -> float | None:
    """Return a value that JSON can hold: NaN and infinity become None."""
    return value if value is not None and math.isfinite(value) else None


@dataclass
class Cosine:
    """Running sums of a cosine similarity, in float64: 1 means the same direction, whatever the length."""

    product: float = 0.0
    reference_square: float = 0.0
    approximation_square: float = 0.0

    def add(self, reference: Tensor, approximation: Tensor) -> None:
        """Add two tensors of one shape, without what `Noise` leaves out."""
        for exact, other in map(without_masked, _in_blocks(reference, approximation)):
            self.product += float(exact @ other)
            self.reference_square += float(exact @ exact)
            self.approximation_square += float(other @ other)

    def join(self, other: "Cosine") -> None:
        """Add the sums of another one."""
        self.product += other.product
        self.reference_square += other.reference_square
        self.approximation_square += other.approximation_square

    @property
    def value(self) -> float | None:
        """The cosine, −1 to 1; None when a side is all zeros (it has no direction), empty or not finite."""
        lengths = math.sqrt(self.reference_square) * math.sqrt(self.approximation_square)
        if not math.isfinite(lengths) or lengths == 0:
            return None
        return max(-1.0, min(1.0, self.product / lengths))


@dataclass
class Share:
    """The share of values that have a property."""

    count: int = 0
    total: int = 0

    @property
    def value(self) -> float | None:
        """The share, 0 to 1; None before the first value."""
        return self.count / self.total if self.total else None


def without_masked(pair: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    """Return two vectors without the positions where both are the same infinity, or both are NaN."""
    exact, other = pair
    if bool(exact.sum().isfinite()):
        return exact, other
    alike = (exact == other) | (exact.isnan() & other.isnan())
    counts = exact.isfinite() | ~alike
    return exact[counts], other[counts]


def _in_blocks(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Yield tensors of one shape as float64 vectors, BLOCK elements at a time: logits of a vocabulary are large."""
    flat = [tensor.detach().flatten() for tensor in tensors]
    for start in range(0, flat[0].numel(), BLOCK):
        yield tuple(vector[start : start + BLOCK].to(torch.float64) for vector in flat)
