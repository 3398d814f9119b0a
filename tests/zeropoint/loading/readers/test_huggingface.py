"""A folder that was written gives the outputs that its source gave, in the same places, whatever network it is."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from tests.transformers_networks import CONFIGS, network
from tests.zeropoint.formats.huggingface.test_writer import computing_quantized, outputs_of, quantized_network, sqnr
from zeropoint.data.batches import ModelInputs
from zeropoint.formats.huggingface.writer import write_folder
from zeropoint.loading.readers.huggingface import open_network
from zeropoint.sources.huggingface.source import HuggingFaceSource

LEAST_DB = 10.0
ALIKE_DB = 50.0


@pytest.mark.parametrize("name", CONFIGS)
def test_outputs_are_those_of_the_source(name: str, tmp_path: Path) -> None:
    made, out = network(name, tmp_path / "folder"), tmp_path / "out"
    out.mkdir()
    result = quantized_network(made, tmp_path)
    write_folder(result, out)
    with torch.no_grad():
        expected = result.source.run(ModelInputs(made.inputs.values(), list(made.inputs)))
        found = open_network(out).run(made.inputs)
    assert [type(value) for value in found] == [type(value) for value in expected]
    pairs = [(e, f) for e, f in zip(expected, found, strict=True) if isinstance(e, Tensor) and isinstance(f, Tensor)]
    assert pairs
    assert sqnr([left for left, _ in pairs], [right for _, right in pairs]) > LEAST_DB


@pytest.mark.filterwarnings("ignore:You passed `quantization_config`")  # transformers, of what is asked of it here
@pytest.mark.parametrize("recipe", [{"activations": None}, {"weights": {"dtype": "int4", "group_size": 8}}])
@pytest.mark.parametrize("name", ["T5EncoderModel", "T5ForConditionalGeneration"])
def test_packed_weights_of_t5_open_as_the_manifest_says_and_not_without(
    name: str, recipe: dict[str, Any], tmp_path: Path
) -> None:
    made, out = network(name, tmp_path / "folder"), tmp_path / "out"
    out.mkdir()
    result = quantized_network(made, tmp_path, **recipe)
    write_folder(result, out)
    opened = open_network(out)
    assert all("CompressedTensorsConfig(dequantize=True)" in entry.loader for entry in opened.loaded)
    with torch.no_grad():
        theirs = [value for value in opened.run(made.inputs) if isinstance(value, Tensor)]
    with computing_quantized(result.layers):
        assert isinstance(result.source, HuggingFaceSource)
        assert sqnr(outputs_of(result.source, made.inputs), theirs) > ALIKE_DB
    with pytest.raises(AttributeError, match="no attribute 'weight'"):  # when this loads, the exception can go
        getattr(transformers, name).from_pretrained(out)
