"""Layers that compressed-tensors has no word for: GPT-2's Conv1D with weights [in, out], and experts in one parameter.

Whatever the recipe, transformers opens the folder without an argument, and computes what we compute.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors import safe_open
from torch import Tensor

from tests.tiny_networks import tiny_network
from tests.transformers_networks import Network, network
from tests.zeropoint.formats.huggingface.test_writer import RECIPES, outputs_of, quantized_network, sqnr
from zeropoint.errors import InvalidRecipe
from zeropoint.formats.huggingface.writer import write_folder
from zeropoint.layers.result import Quantized
from zeropoint.loading.readers.huggingface import open_network
from zeropoint.simulation.fake_quant import simulated
from zeropoint.sources.huggingface.source import HuggingFaceSource

SHARES = {
    "GPT2LMHeadModel": 0.8,
    "ImageGPTModel": 0.8,  # the same layers under other names
    "MixtralForCausalLM": 0.9,
    "Qwen3MoeForCausalLM": 0.9,
    "DeepseekV3ForCausalLM": 0.85,  # also experts that see every token
    "Llama4ForCausalLM": 0.9,  # merged in the checkpoint, single in a quantized network
}
"""The least share of the bytes that static int8 quantizes, embeddings included."""
MIXTURES = ("MixtralForCausalLM", "Qwen3MoeForCausalLM", "DeepseekV3ForCausalLM")
WHOLE = [name for name in RECIPES if name != "two schemes and a float layer"]
UNREADABLE = [("DeepseekV3ForCausalLM", "int4 in groups, asymmetric")]
"""compressed-tensors 0.20 can't unpack zero points of layers with 8 outputs, which this tiny network has."""
CASES = [(name, recipe) for name in SHARES for recipe in WHOLE if (name, recipe) not in UNREADABLE]
GROUPED = [name for name in WHOLE if "in groups" in name]


def written(made: Network, folder: Path, **wishes: Any) -> tuple[Quantized, dict[str, Tensor], dict[str, Any]]:
    """Return the result, the stored tensors and the quantization config."""
    result, out = quantized_network(made, folder, **wishes), folder / "out"
    out.mkdir(exist_ok=True)
    write_folder(result, out)
    with safe_open(out / "model.safetensors", framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    return result, tensors, json.loads((out / "config.json").read_text())["quantization_config"]


def share(result: Quantized) -> float:
    return sum(layer.layer.weight.nbytes for layer in result.layers) / result.source.original_bytes


def require_same(result: Quantized, made: Network, out: Path) -> None:
    """Compare what plain `from_pretrained` computes with what the source computes with quantized layers."""
    opened = open_network(out)
    assert all(entry.loader.endswith(".from_pretrained") for entry in opened.loaded)
    with torch.no_grad():
        theirs = [value for value in opened.run(made.inputs) if isinstance(value, Tensor)]
    assert isinstance(result.source, HuggingFaceSource)
    with simulated(result.layers):
        assert sqnr(outputs_of(result.source, made.inputs), theirs) > 40


@pytest.mark.sampled(8)
@pytest.mark.parametrize(("name", "recipe"), CASES)
def test_from_pretrained_computes_the_same(name: str, recipe: str, tmp_path: Path) -> None:
    made = tiny_network(name, tmp_path / "folder")
    if "GPT" in name and recipe in GROUPED:
        with pytest.raises(InvalidRecipe, match=r"format_unsupported: .*Conv1D.*pt2 program"):
            quantized_network(made, tmp_path, **RECIPES[recipe])
        return
    result, _, _ = written(made, tmp_path, **RECIPES[recipe])
    require_same(result, made, tmp_path / "out")
    symmetric = RECIPES[recipe].get("weights", {}).get("scheme") != "asymmetric"
    assert share(result) > SHARES[name] or (name in MIXTURES and not symmetric)


def test_a_conv1d_is_int8_with_a_scale_for_each_output(tmp_path: Path) -> None:
    made = network("GPT2LMHeadModel", tmp_path / "folder")
    result, tensors, config = written(made, tmp_path)
    assert {layer.layer.type for layer in result.layers} == {"Conv1D"}
    for layer in result.layers:
        values, scale = (tensors[f"{layer.layer.name}.{part}"] for part in ("weight", "weight_scale"))
        float_weight = made.model.get_parameter(f"{layer.layer.name}.weight")
        assert (values.dtype, values.shape, scale.shape) == (torch.int8, float_weight.shape, (1, values.shape[1]))
        assert torch.equal(values * scale, layer.dequantized_weight.t())
        assert (values * scale - float_weight).abs().max() <= 0.5001 * scale.max()
        assert layer.activation is None  # nothing that opens the folder would quantize its input
    assert config["config_groups"]["group_0"]["targets"] == ["Conv1D"]
    assert config["ignore"] == ["lm_head"]
    with torch.no_grad():
        loaded: Any = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
        assert sqnr([made.model(**made.inputs).logits], [loaded(**made.inputs).logits]) > 25


@pytest.mark.parametrize("name", MIXTURES)
def test_every_expert_has_scales_of_its_own(name: str, tmp_path: Path) -> None:
    """A larger expert takes nothing from its neighbours, whose integers and scales stay as they were."""
    made = tiny_network(name, tmp_path / "folder")
    _, before, config = written(made, tmp_path)
    groups = config["config_groups"].values()
    assert [group["targets"] for group in groups if "experts" in group["targets"][0]] == [[r"re:.*\.experts\.\d+\..*"]]
    layer = max(n for n, _ in made.model.named_parameters() if n.endswith("experts.down_proj"))
    with torch.no_grad():
        made.model.get_parameter(layer)[1] *= 100
    made.model.save_pretrained(made.folder)
    _, after, _ = written(made, tmp_path)
    changed = {n for n in before if ".experts." in n and not torch.equal(before[n], after[n])}
    assert len(changed) == 1, changed
    assert ".experts.1." in changed.pop()


def test_experts_in_float_keep_their_names_beside_quantized_ones(tmp_path: Path) -> None:
    made = tiny_network("Qwen3MoeForCausalLM", tmp_path / "folder")
    result, tensors, _ = written(made, tmp_path, exclude=["*.experts.down_proj"])
    assert "model.layers.0.mlp.experts.down_proj" in tensors
    assert "model.layers.0.mlp.experts.0.gate_proj.weight_packed" in tensors
    require_same(result, made, tmp_path / "out")


def test_experts_that_differ_are_refused(tmp_path: Path) -> None:
    made = tiny_network("MixtralForCausalLM", tmp_path / "folder")
    other = {"names": ["*.experts.down_proj"], "weights": {"granularity": "per_tensor"}}
    with pytest.raises(InvalidRecipe, match="experts of a mixture with one setting for all"):
        quantized_network(made, tmp_path, overrides=[other])


def test_experts_that_a_checkpoint_stores_merged_stay_in_float(tmp_path: Path) -> None:
    result, _, _ = written(tiny_network("GptOssForCausalLM", tmp_path / "folder"), tmp_path)
    reasons = {skip.reason for skip in result.skipped if skip.name.endswith("experts")}
    assert reasons == {"format_unsupported"}


def test_dinov2_opens_as_the_manifest_says(tmp_path: Path) -> None:
    made = network("Dinov2Model", tmp_path / "folder")
    result, _, _ = written(made, tmp_path)
    loader = open_network(tmp_path / "out").loaded[0].loader
    assert loader.endswith("after register_checkpoint_conversion_mapping('Dinov2Model', [], overwrite=True)")
    assert share(result) > 0.7
    with pytest.raises(ValueError, match="one to many"):  # when this loads, the line can go
        transformers.Dinov2Model.from_pretrained(tmp_path / "out")
