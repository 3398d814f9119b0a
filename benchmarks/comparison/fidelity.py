"""How near a quantized model is to its float model, and how good both are at their task, on the same samples."""

from dataclasses import dataclass

import torch
from torch import nn

from benchmarks.models.model import Call, Model, outputs
from zeropoint.metrics.sqnr import Noise


@dataclass(frozen=True)
class Fidelity:
    """What one model makes of the evaluation samples."""

    sqnr_db: float | None
    """None: no difference at all."""
    agreement: float
    """How often the largest number of the first output stands where the float model has it."""
    quality: dict[str, float]


class Truth:
    """The float model's own answers."""

    def __init__(self, model: Model, network: nn.Module) -> None:
        self.model = model
        self.samples = model.evaluation(model.evaluation_samples)
        self.outputs = outputs(network, self.samples)
        self.quality = model.quality(network)

    def judge(self, call: Call) -> Fidelity:
        """Hold a quantized model against the float one."""
        found, noise = outputs(call, self.samples), Noise()
        for expected, output in zip(self.outputs, found, strict=True):
            noise.add(expected, output)
        agreement = (self.outputs[0].argmax(-1) == found[0].argmax(-1)).to(torch.float64).mean()
        return Fidelity(noise.db, float(agreement), self.model.quality(call))
