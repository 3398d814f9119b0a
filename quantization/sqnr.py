"""Signal to quantization noise ratio: 10·log10(Σ float² / Σ (float − quantized)²) in dB, summed over tensors."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class Noise:
    """Running energies of signal and noise, in float64. One number for any count of tensors and batches."""

    signal: float = 0.0
    noise: float = 0.0

    def add(self, reference: Tensor, approximation: Tensor) -> None:
        """Add two tensors of one shape. Non-finite noise makes the result NaN, never a good number."""
        exact = reference.detach().to(torch.float64)
        self.signal += float(exact.square().sum())
        self.noise += float((exact - approximation.detach().to(torch.float64)).square().sum())

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
