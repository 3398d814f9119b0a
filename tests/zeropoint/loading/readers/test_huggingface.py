"""A folder that was written gives the outputs that its source gave, in the same places, whatever network it is."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.tiny_networks import tiny_network
from tests.transformers_networks import CONFIGS, network
from tests.zeropoint.formats.huggingface.test_writer import outputs_of, quantized_network, sqnr
from zeropoint.data.batches import ModelInputs
from zeropoint.errors import InvalidRecipe
from zeropoint.formats.huggingface.writer import write_folder
from zeropoint.layers.selection import FALLBACK
from zeropoint.loading.readers.huggingface import open_network
from zeropoint.simulation.fake_quant import simulated
from zeropoint.sources.huggingface.source import HuggingFaceSource

LEAST_DB = 10.0
ALIKE_DB = 50.0


@pytest.mark.sampled(5)
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


@pytest.mark.parametrize("recipe", [{"activations": None}, {"weights": {"dtype": "int4", "group_size": 8}}])
@pytest.mark.parametrize("name", ["T5EncoderModel", "T5ForConditionalGeneration", "FalconForCausalLM", "SiglipModel"])
def test_packed_weights_of_networks_that_read_a_weight_open_too(
    name: str, recipe: dict[str, Any], tmp_path: Path
) -> None:
    made, out = tiny_network(name, tmp_path / "folder"), tmp_path / "out"
    out.mkdir()
    result = quantized_network(made, tmp_path, **recipe)
    write_folder(result, out)
    opened = open_network(out)
    assert {entry.loader for entry in opened.loaded} == {f"transformers.{name}.from_pretrained"}
    with torch.no_grad():
        theirs = [value for value in opened.run(made.inputs) if isinstance(value, Tensor)]
    with simulated(result.layers):
        assert isinstance(result.source, HuggingFaceSource)
        assert sqnr(outputs_of(result.source, made.inputs), theirs) > ALIKE_DB


def test_two_packings_are_refused_where_transformers_opens_one(tmp_path: Path) -> None:
    made = tiny_network("T5EncoderModel", tmp_path / "folder")
    mixed = {"names": ["*.wo"], "weights": {"dtype": "int4", "group_size": 8}, "activations": None}
    with pytest.raises(InvalidRecipe, match="with one setting for all") as caught:
        quantized_network(made, tmp_path, overrides=[mixed])
    assert caught.value.code == "recipe_does_not_fit"
    fallen_back = quantized_network(made, tmp_path, weights={"dtype": "int4", "group_size": 64}, fallback="int8")
    assert {layer.settings for layer in fallen_back.layers} == {FALLBACK}  # the widths are 32 and 64
