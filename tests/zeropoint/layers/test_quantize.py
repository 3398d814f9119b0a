"""A layer on the disk is the layer that it was, in memory that can be given back."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.networks import convolutional
from tests.zeropoint.conftest import QuantizeExample
from zeropoint.layers.quantize import spill_to_disk
from zeropoint.layers.stored_tensors import stored_sizes, stored_tensors

RECIPES = [
    {},
    {"weights": {"granularity": "per_tensor"}},
    {"weights": {"dtype": "int4", "group_size": 8}, "include": ["head"]},
    {"weights": {"dtype": "float8_e4m3"}},
    {"weights": {"dtype": "float16"}},
]


@pytest.mark.parametrize("recipe", RECIPES, ids=str)
def test_nothing_of_a_layer_changes(recipe: dict[str, object], quantized: QuantizeExample, tmp_path: Path) -> None:
    layer = quantized(convolutional(), **recipe).layers[-1]
    spilled = spill_to_disk(layer, tmp_path / "0.safetensors")
    spilled.release()
    assert stored_sizes(spilled) == stored_sizes(layer)
    assert torch.equal(spilled.dequantized_weight, layer.dequantized_weight)
    for name, tensor in stored_tensors(layer).items():
        assert torch.equal(stored_tensors(spilled)[name].to(torch.float32), tensor.to(torch.float32)), name
    assert replace(spilled, weight=layer.weight, qparams=layer.qparams, file=None) == layer
