"""The probe measures a weight that an operator reads by quantizing that weight alone."""

from typing import Any

import pytest
import torch

from tests.held_networks import EXPERT_PRODUCTS, RECURRENT
from zeropoint import quantize
from zeropoint.metrics.sqnr import Noise

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore:The tensor attribute:UserWarning"),
]


@pytest.mark.parametrize("name", ["LSTM 2 layers", "bmm"])
def test_sensitivity_is_what_quantizing_the_weight_alone_costs(name: str) -> None:
    held = {**RECURRENT, **EXPERT_PRODUCTS}[name]
    samples = held.samples()
    recipe: Any = {"sensitivity": True, "activations": None}
    result = quantize(held.program(), samples, recipe=recipe)
    layer = next(layer for layer in result.report.layers if layer.name in held.layers)
    assert layer.sensitivity_db is not None
    alone: Any = {"activations": None}
    only = quantize(held.program(), samples, recipe=alone, include=[layer.name], on_failure="ignore")
    network, noise = held.module().eval(), Noise()
    with torch.no_grad():
        for inputs in samples:
            noise.add(network(*inputs), only.module(*inputs))
    assert layer.sensitivity_db == pytest.approx(noise.db, abs=1.5)  # the probe sees only some of the samples
