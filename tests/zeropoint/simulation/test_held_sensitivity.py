"""The probe measures a weight that an operator reads by quantizing that weight alone."""

import pytest
import torch

from tests.held_networks import EXPERT_PRODUCTS, RECURRENT
from zeropoint.data.calls import read_calls, reader_for
from zeropoint.layers.quantize import quantize_layer
from zeropoint.layers.selection import select
from zeropoint.metrics.sqnr import Noise
from zeropoint.model.source import floating_outputs
from zeropoint.schema.recipe import Recipe
from zeropoint.simulation.fake_quant import simulated
from zeropoint.simulation.sensitivity import probe
from zeropoint.sources.program import program_source

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore:The tensor attribute:UserWarning"),
]


@pytest.mark.parametrize("name", ["LSTM 2 layers", "GRUCell", "bmm"])
def test_sensitivity_is_what_quantizing_the_weight_alone_costs(name: str) -> None:
    held = {**RECURRENT, **EXPERT_PRODUCTS}[name]
    source = program_source(held.program())
    choices, _ = select(source.layers, Recipe(activations=None))
    layers = {choice.layer.name: quantize_layer(choice, None) for choice in choices}
    samples = read_calls(held.samples(), reader_for(source.inputs), 16)
    found = probe(source, layers, samples)
    assert found is not None
    assert found.noise.keys() == layers.keys()
    for layer in held.layers:
        noise = Noise()
        for batch in samples:
            expected = floating_outputs(source, batch)
            with simulated([layers[layer]]):
                outputs = floating_outputs(source, batch)
            for left, right in zip(expected, outputs, strict=True):
                noise.add(left, right)
        assert found.noise[layer] == pytest.approx(noise.noise, rel=1e-3)
        assert found.macs[layer] == layers[layer].weight.numel() * samples.count


def test_a_held_weight_is_float_again_after_the_simulation() -> None:
    held = RECURRENT["GRU 1 layers"]
    source = program_source(held.program())
    choices, _ = select(source.layers, Recipe(activations=None))
    inputs = held.inputs(4, 1)
    before = source.run(list(inputs))[0]
    with simulated([quantize_layer(choice, None) for choice in choices]):
        during = source.run(list(inputs))[0]
    after = source.run(list(inputs))[0]
    assert isinstance(before, torch.Tensor)
    assert isinstance(during, torch.Tensor)
    assert isinstance(after, torch.Tensor)
    assert torch.equal(before, after)
    assert not torch.equal(before, during)
