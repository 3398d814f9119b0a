"""Comparisons of an artifact with the float model as runtimes compute it, on the first evaluation samples.

They need time and so get few samples, all of one shape: a compiled program is compiled again for each.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from time import monotonic

from torch import Tensor

from zeropoint.data.batches import ModelInputs
from zeropoint.metrics.sqnr import Noise, Share
from zeropoint.schema.formats import ONNX_FILE
from zeropoint.validation.outputs import Output, Outputs

MOST_SAMPLES = 64
MOST_SECONDS = 120.0
"""After these no further batch is run; the first one always is."""
MOST_BYTES = 64 * 2**20
"""Of inputs that are kept for programs that are compiled afterwards."""


@dataclass
class RuntimeRuns:
    """What runtimes gave: by run, and of the saved files on the same samples."""

    saved: Outputs = field(default_factory=Outputs)
    onnx: Outputs = field(default_factory=Outputs)
    by_run: dict[str, Outputs] = field(default_factory=dict)
    batches: list[Sequence[Tensor]] = field(default_factory=list)
    samples: int = 0
    began: float = field(default_factory=monotonic)
    taking: bool = False
    """Whether the current batch is one of them."""
    failed: set[str] = field(default_factory=set)
    """Runs that lacked an output, or gave another shape."""

    def take(self, batch: Sequence[Tensor]) -> bool:
        """Return whether runtimes run this batch too, and keep it then."""
        self.taking = self._fits(batch)
        if self.taking:
            self.batches.append(batch)
            self.samples += samples_in(batch)
        return self.taking

    def _fits(self, batch: Sequence[Tensor]) -> bool:
        shapes = [tensor.shape for tensor in batch]
        if not self.batches:
            return True
        if monotonic() - self.began > MOST_SECONDS:
            return False
        held = sum(tensor.nbytes for one in (*self.batches, batch) for tensor in one)
        alike = shapes == [tensor.shape for tensor in self.batches[0]]
        return alike and self.samples + samples_in(batch) <= MOST_SAMPLES and held <= MOST_BYTES

    def add(
        self,
        expected: Sequence[object],
        saved: Mapping[int, Tensor],
        further: Mapping[str, Mapping[int, Tensor]],
        also: Mapping[str, Mapping[int, Tensor]],
    ) -> None:
        """Add the outputs of one batch: of the saved program, of further artifacts by file, and of runs by name."""
        self.saved.add(expected, saved)
        if ONNX_FILE in further:
            self.onnx.add(expected, further[ONNX_FILE])
        for name, outputs in also.items():
            self.add_run(name, expected, outputs)

    def add_run(self, name: str, expected: Sequence[object], outputs: Mapping[int, Tensor]) -> None:
        """Add one run's outputs of a batch."""
        if not self.by_run.setdefault(name, Outputs()).add(expected, outputs):
            self.failed.add(name)

    def outputs(self, name: str) -> Outputs | None:
        """Return the comparison of a run; None if it failed, or wasn't asked for."""
        outputs = None if name in self.failed else self.by_run.get(name)
        if name != "mlas" or outputs is None:
            return outputs
        return with_saturation(self.onnx, outputs, self.saved)


def samples_in(batch: Sequence[Tensor]) -> int:
    """Return how many samples a batch holds."""
    return batch.samples if isinstance(batch, ModelInputs) else len(batch[0]) if batch[0].dim() else 1


def with_saturation(onnx: Outputs, saturated: Outputs, saved: Outputs) -> Outputs:
    """Return what onnxruntime's outputs would be where its kernels saturate.

    Its noise grows by what saturation adds to the noise of the saved program; energies are compared, since a sum that
    changes by little moves later values to other steps, which makes outputs different but no worse.
    """
    positions = onnx.by_position.items()
    return Outputs({at: _worse(one, saturated.by_position[at], saved.by_position[at]) for at, one in positions})


def _worse(output: Output, saturated: Output, saved: Output) -> Output:
    added, lost = saturated.noise.noise - saved.noise.noise, saved.equal.count - saturated.equal.count
    noise = output.noise.noise + (added if math.isnan(added) else max(added, 0.0))
    equal = Share(max(output.equal.count - max(lost, 0), 0), output.equal.total)
    return replace(output, noise=Noise(output.noise.signal, noise), equal=equal)
