"""How near two results are, as running sums over any count of tensors and batches.

SQNR = 10·log10(Σ float² / Σ (float − quantized)²) dB        cosine = Σ float·quantized / √(Σ float² · Σ quantized²)
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

BLOCK = 2**20


@dataclass
class Noise:
    """Running energies of signal and noise, in float64. One number for any count of tensors and batches."""

    signal: float = 0.0
    noise: float = 0.0

    def add(self, reference: Tensor, approximation: Tensor) -> None:
        """Add two tensors of one shape. Non-finite noise makes the result NaN, never a good number."""
        for exact, other in _in_blocks(reference, approximation):
            self.signal += float(exact.square().sum())
            self.noise += float((exact - other).square().sum())

    def join(self, other: "Noise") -> None:
        """Add what another one counted."""
        self.signal += other.signal
        self.noise += other.noise

    @property
    def exact(self) -> bool:
        """Whether the two never differed."""
        return self.noise == 0.0

    @property
    def db(self) -> float | None:
        """SQNR in dB; None when exact; −inf dB (all noise, no signal) and NaN are reported as they are."""
        if self.exact:
            return None
        if not math.isfinite(self.signal) or not math.isfinite(self.noise):
            return math.nan
        return 10 * math.log10(self.signal / self.noise) if self.signal > 0 else -math.inf


def finite(value: float | None) -> float | None:
    """The value where JSON has a word for it: NaN and infinity become None."""
    return value if value is not None and math.isfinite(value) else None


@dataclass
class Cosine:
    """Running sums of a cosine similarity, in float64: 1 means the same direction, whatever the length."""

    product: float = 0.0
    left: float = 0.0
    right: float = 0.0

    def add(self, reference: Tensor, approximation: Tensor) -> None:
        """Add two tensors of one shape."""
        for exact, other in _in_blocks(reference, approximation):
            self.product += float(exact @ other)
            self.left += float(exact @ exact)
            self.right += float(other @ other)

    @property
    def value(self) -> float | None:
        """Between −1 and 1; None when a side is all zeros (it has no direction), empty or not finite."""
        lengths = math.sqrt(self.left) * math.sqrt(self.right)
        if not math.isfinite(lengths) or lengths == 0:
            return None
        return max(-1.0, min(1.0, self.product / lengths))


@dataclass
class Share:
    """How many of all values seen had a property."""

    count: int = 0
    total: int = 0

    @property
    def value(self) -> float | None:
        """Between 0 and 1; None before the first value."""
        return self.count / self.total if self.total else None


def _in_blocks(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Tensors of one shape as float64 vectors, BLOCK elements at a time: logits of a vocabulary are large."""
    flat = [tensor.detach().flatten() for tensor in tensors]
    for start in range(0, flat[0].numel(), BLOCK):
        yield tuple(vector[start : start + BLOCK].to(torch.float64) for vector in flat)
