"""A folder that was written gives the outputs that its source gave, in the same places, whatever network it is."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from quantization.formats.huggingface import write_folder
from quantization.readback.huggingface import open_network
from quantization.samples import Call
from tests.quantization.formats.test_huggingface import quantized_network, sqnr
from tests.transformers_networks import CONFIGS, network

LEAST_DB = 10.0


@pytest.mark.parametrize("name", CONFIGS)
def test_outputs_are_those_of_the_source(name: str, tmp_path: Path) -> None:
    made, out = network(name, tmp_path / "folder"), tmp_path / "out"
    out.mkdir()
    result = quantized_network(made, tmp_path)
    write_folder(result, out)
    with torch.no_grad():
        expected = result.source.run(Call(made.inputs.values(), list(made.inputs)))
        found = open_network(out).run(made.inputs)
    assert [type(value) for value in found] == [type(value) for value in expected]
    pairs = [(e, f) for e, f in zip(expected, found, strict=True) if isinstance(e, Tensor) and isinstance(f, Tensor)]
    assert pairs
    assert sqnr([left for left, _ in pairs], [right for _, right in pairs]) > LEAST_DB
