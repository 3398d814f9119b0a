"""The rounding error of a layer is the same block by block as over the whole weight, and infinite where it must be."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from zeropoint.files.block_reader import BLOCK_VALUES, open_tensors
from zeropoint.layers.quantize import quantize_layer
from zeropoint.layers.quantized_layer import QuantizedLayer
from zeropoint.layers.rounding_error import layer_rounding_error
from zeropoint.layers.selection import Choice
from zeropoint.model.layer import Layer
from zeropoint.schema.recipe import WeightSettings

SETTINGS = [
    {},
    {"axis": 1},
    {"granularity": "per_tensor"},
    {"dtype": "int4", "group_size": 32},
    {"dtype": "float8_e4m3"},
    {"dtype": "bfloat16"},
]


def quantized(folder: Path, body: dict[str, object]) -> QuantizedLayer:
    """Quantize a linear layer whose weight lies in a file, in two blocks."""
    module = nn.Linear(BLOCK_VALUES // 64, 100, bias=False)
    save_file({"weight": module.weight.detach()}, folder / "weight.safetensors")
    stored = open_tensors(folder / "weight.safetensors")["weight"]
    assert len(list(stored.blocks())) == 2
    layer = Layer("linear", "Linear", stored.bytes, "Linear", module, "weight", stored=stored)
    return quantize_layer(Choice(layer, WeightSettings.model_validate(body), None), None)


@pytest.mark.parametrize("body", SETTINGS, ids=str)
def test_blocks_err_as_the_whole_weight_does(body: dict[str, object], tmp_path: Path) -> None:
    layer = quantized(tmp_path, body)
    whole = replace(layer, layer=replace(layer.layer, stored=None))
    assert layer_rounding_error(layer) == layer_rounding_error(whole) <= 0.501


def test_a_scale_that_is_no_number_is_found_in_any_block(tmp_path: Path) -> None:
    layer = quantized(tmp_path, {})
    assert layer.qparams is not None
    scale = layer.qparams.scale.clone()
    scale[-1] = torch.nan
    assert layer_rounding_error(replace(layer, qparams=replace(layer.qparams, scale=scale))) == math.inf
