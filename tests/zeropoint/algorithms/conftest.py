"""A bench with a network on it, for algorithms to work at."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from zeropoint.algorithms.context import AlgorithmContext, Layers
from zeropoint.algorithms.shared_inputs import same_inputs
from zeropoint.calibration.collect import collect, everything
from zeropoint.calibration.ranges import static_inputs
from zeropoint.data.batches import ModelInputs
from zeropoint.data.calls import read_calls
from zeropoint.layers.quantize import quantize_layer
from zeropoint.layers.selection import select
from zeropoint.schema.recipe import Recipe
from zeropoint.simulation.measure import Evaluator
from zeropoint.sources.module import module_source


@dataclass(frozen=True)
class Place:
    """A bench, the plain layers on it, and a acceptance on samples that calibrated nothing."""

    context: AlgorithmContext
    layers: Layers
    acceptance: Evaluator

    def db(self, layers: Layers) -> float:
        """SQNR of the whole network with these layers."""
        return self.acceptance.noise(layers.values()).db or 0.0


Prepare = Callable[..., Place]


def as_it_is(call: object) -> ModelInputs:
    assert isinstance(call, ModelInputs)
    return call


@pytest.fixture
def prepare() -> Prepare:
    def place(module: nn.Module, samples: Tensor, **recipe: object) -> Place:
        source = module_source(module.eval())
        batches = [ModelInputs([part]) for part in torch.split(samples, 16)]
        calibration = read_calls(batches[:-1], as_it_is, len(samples))
        acceptance = read_calls(batches[-1:], as_it_is, len(samples))
        choices, _ = select(source.layers, Recipe.model_validate(recipe))
        profile = collect(source, source.layers, calibration, lambda *_: None, everything(source.layers))
        activations = static_inputs([choice for choice in choices if choice.activations is not None], profile)
        layers = {c.layer.name: quantize_layer(c, activations.get(c.layer.name)) for c in choices}
        context = AlgorithmContext(source, calibration, profile.layers, same_inputs(source, batches[0]))
        return Place(context, layers, Evaluator(source, acceptance))

    return place


@pytest.fixture
def outlying() -> tuple[nn.Module, Tensor]:
    """Two linears; three of the 32 input channels are a hundred times as wide as the others."""
    torch.manual_seed(0)
    wide = torch.ones(32)
    wide[[3, 17, 30]] = 100.0
    module = nn.Sequential(nn.Linear(32, 24), nn.Tanh(), nn.Linear(24, 8))
    with torch.no_grad():
        module.get_parameter("0.weight").div_(wide)
    return module, torch.randn(160, 32) * wide
