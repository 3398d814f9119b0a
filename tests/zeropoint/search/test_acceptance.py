"""The gate: SQNR of the whole model, the same each time, of what counts alone."""

import math

import pytest
import torch
from torch import Tensor, nn

from tests.networks import convolutional, counting
from tests.zeropoint.conftest import QuantizeExample
from tests.zeropoint.simulation.test_fake_quant import far_apart, run
from zeropoint.data.batches import ModelInputs
from zeropoint.data.calls import IterableBatches, read_inputs
from zeropoint.layers.result import Quantized
from zeropoint.simulation import measure as module
from zeropoint.simulation.measure import Evaluator
from zeropoint.sources.module import module_source


def gate_of(result: Quantized, inputs: tuple[Tensor, ...]) -> Evaluator:
    return Evaluator(result.source, IterableBatches([ModelInputs(inputs)], lambda call: call))  # type: ignore[arg-type,return-value]


def test_it_is_the_noise_of_the_program(quantized: QuantizeExample) -> None:
    example = convolutional()
    result = quantized(example)
    noise = gate_of(result, example.inputs).noise(result.layers)
    with torch.no_grad():
        exact = result.source.run(ModelInputs(example.inputs))
    expected = far_apart([one for one in exact if isinstance(one, Tensor)], run(result, example.inputs))
    assert noise.noise / noise.signal == pytest.approx(expected, rel=1e-3)
    assert noise.signal > 0


def test_float_layers_make_no_noise(quantized: QuantizeExample) -> None:
    example = convolutional()
    assert gate_of(quantized(example), example.inputs).noise([]).exact


@pytest.mark.parametrize("kept", [0, 2**28])
def test_it_says_the_same_each_time(quantized: QuantizeExample, monkeypatch: pytest.MonkeyPatch, kept: int) -> None:
    monkeypatch.setattr(module, "MAX_KEPT_BYTES", kept)
    example = counting()
    result = quantized(example)
    found = gate_of(result, example.inputs)
    first = found.noise(result.layers)
    assert (first.signal, first.noise) == ((again := found.noise(result.layers)).signal, again.noise)


def test_padding_does_not_count() -> None:
    class Encoder(nn.Module):
        def forward(self, x: Tensor, attention_mask: Tensor) -> Tensor:
            return x * attention_mask.numel()

    mask = torch.tensor([[1, 0]])
    x = torch.tensor([[[3.0], [4.0]]])
    found = Evaluator(module_source(Encoder()), IterableBatches([{"x": x, "attention_mask": mask}], read_inputs)).noise(
        []
    )
    assert math.sqrt(found.signal) == 6.0
