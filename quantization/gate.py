"""The gate: what the whole model's SQNR is on samples that were kept out of calibration, with layers as they are now.

Masked positions (`masking`) don't count. What the float model gives is kept, as long as it isn't large.
"""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from quantization.layers import QuantizedLayer
from quantization.masking import mask_of, visible
from quantization.samples import Batches
from quantization.simulation import simulated
from quantization.sources.source import Source
from quantization.sqnr import Noise

MAX_KEPT_BYTES = 2**28


class Gate:
    """Measures on `samples`; the float model's outputs are made once, and again each time where they are too large."""

    def __init__(self, source: Source, samples: Batches) -> None:
        self.source, self.samples = source, samples
        self._kept: list[list[Tensor]] | None = None
        self.evaluations = 0

    def noise(self, layers: Iterable[QuantizedLayer]) -> Noise:
        """Signal and noise of all floating outputs."""
        layers, total = list(layers), Noise()
        self.evaluations += 1
        for number, batch in enumerate(self.samples):
            expected = self._expected(number, batch)
            with simulated(layers):
                found = outputs(self.source, batch)
            for reference, value in zip(expected, found, strict=True):
                total.add(reference, value)
        return total

    def _expected(self, number: int, batch: Sequence[Tensor]) -> list[Tensor]:
        if self._kept is None:
            self._kept = []
        if number < len(self._kept):
            return self._kept[number]
        found = outputs(self.source, batch)
        size = sum(tensor.nbytes for tensor in found) * max(len(self.samples), 1)
        if number == len(self._kept) and size <= MAX_KEPT_BYTES:
            self._kept.append(found)
        return found


def outputs(source: Source, batch: Sequence[Tensor]) -> list[Tensor]:
    """The floating outputs of one pass from the uploaded state, at positions that count."""
    mask = mask_of(batch)
    source.reset()
    with torch.no_grad():
        found = source.run(batch)
    return [visible(v, mask) for v in found if isinstance(v, Tensor) and v.is_floating_point()]
