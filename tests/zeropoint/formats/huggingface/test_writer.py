"""A Hugging Face folder out: the format's own software loads it whole, and computes what we compute."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from compressed_tensors.quantization import QuantizationConfig
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from tests.networks_with_corrections import correct, corrected
from tests.transformers_networks import Network, network
from zeropoint.data.batches import ModelInputs
from zeropoint.data.dataset import open_dataset
from zeropoint.engine.plan import plan
from zeropoint.engine.quantize import quantize_source
from zeropoint.formats.huggingface.writer import write_folder
from zeropoint.layers.quantized_layer import QuantizedLayer
from zeropoint.layers.result import Quantized
from zeropoint.layers.stored_tensors import bias_name
from zeropoint.loading.readers.huggingface import open_network
from zeropoint.metrics.sqnr import Noise
from zeropoint.primitives.qparams import dequantize, quantize
from zeropoint.schema.defaults import complete
from zeropoint.schema.recipe import Recipe
from zeropoint.sources.huggingface.source import HuggingFaceSource, open_huggingface

FACTS = Path(__file__).parent / "llmcompressor"
RECIPES: dict[str, dict[str, Any]] = {
    "static int8": {},
    "static int8, asymmetric activations": {"activations": {"dtype": "qint8", "scheme": "asymmetric"}},
    "static int8, as uint8": {
        "weights": {"dtype": "quint8", "scheme": "asymmetric"},
        "activations": {"dtype": "quint8"},
    },
    "static int8, per tensor": {"weights": {"granularity": "per_tensor"}},
    "static float8": {"weights": {"dtype": "float8_e4m3"}},
    "weight-only int8": {"activations": None},
    "weight-only int8, asymmetric": {"weights": {"scheme": "asymmetric"}, "activations": None},
    "weight-only float8": {"weights": {"dtype": "float8_e4m3"}, "activations": None},
    "int4 in groups": {"weights": {"dtype": "int4", "group_size": 16}},
    "int4 in groups, asymmetric": {"weights": {"dtype": "int4", "group_size": 16, "scheme": "asymmetric"}},
    "int8 in groups": {"weights": {"granularity": "per_group", "group_size": 16}, "activations": None},
    "two schemes and a float layer": {
        "exclude": ["*.v_proj"],
        "overrides": [{"names": ["*.mlp.*"], "weights": {"dtype": "int4", "group_size": 16}, "activations": None}],
    },
}


def quantized_network(made: Network, folder: Path, **wishes: Any) -> Quantized:
    """Quantize a network on its own inputs."""
    source = open_huggingface(made.folder, "cpu")
    recipe = complete(Recipe.model_validate(wishes), "huggingface", [layer.name for layer in source.layers])
    save_file(made.inputs, folder / "dataset.safetensors")
    samples = open_dataset(folder / "dataset.safetensors", source.inputs, None)
    return quantize_source(source, recipe, plan(source, recipe, samples), lambda *_: None)


@contextmanager
def computing_quantized(layers: list[QuantizedLayer]) -> Iterator[None]:
    """Let the float network compute with quantized weights and inputs, as our own leaves do."""
    handles, weights = [], []
    for layer in layers:
        module = layer.layer.module
        assert module is not None
        weights.append((module, module.weight))
        module.weight = torch.nn.Parameter(layer.dequantized_weight.to(layer.layer.weight.dtype), requires_grad=False)
        if layer.activation is not None:
            grid = layer.activation.qparams

            def lay(_: Any, arguments: tuple[Tensor, ...], grid: Any = grid) -> tuple[Tensor, ...]:
                return (dequantize(quantize(arguments[0], grid), grid).to(arguments[0].dtype), *arguments[1:])

            handles.append(module.register_forward_pre_hook(lay))
    yield
    for handle in handles:
        handle.remove()
    for module, weight in weights:
        module.weight = weight


def outputs_of(source: HuggingFaceSource, inputs: dict[str, Tensor]) -> list[Tensor]:
    with torch.no_grad():
        values = source.run(ModelInputs(inputs.values(), list(inputs)))
    return [value for value in values if isinstance(value, Tensor)]


def sqnr(reference: list[Tensor], other: list[Tensor]) -> float:
    noise = Noise()
    for left, right in zip(reference, other, strict=True):
        noise.add(left, right)
    return 400.0 if noise.db is None else noise.db


@pytest.mark.sampled(4)
@pytest.mark.parametrize("recipe", RECIPES)
def test_from_pretrained_loads_it_whole_and_computes_the_same(recipe: str, tmp_path: Path) -> None:
    made = network("LlamaForCausalLM", tmp_path / "folder")
    result, out = quantized_network(made, tmp_path, **RECIPES[recipe]), tmp_path / "out"
    out.mkdir()
    write_folder(result, out)
    opened = open_network(out)  # raises on a missing or unexpected key
    with torch.no_grad():
        theirs = [value for value in opened.run(made.inputs) if isinstance(value, Tensor)]
    assert isinstance(result.source, HuggingFaceSource)
    with computing_quantized(result.layers):
        ours = outputs_of(result.source, made.inputs)
    assert sqnr(ours, theirs) > 40  # they divide by the scale and we multiply by its reciprocal: few values round apart
    assert {entry.name for entry in opened.loaded} >= {"config.json", "model.safetensors"}


@pytest.mark.parametrize("recipe", RECIPES)
def test_nothing_but_from_pretrained_is_needed(recipe: str, tmp_path: Path) -> None:
    made = network("LlamaForCausalLM", tmp_path / "folder")
    (tmp_path / "out").mkdir()
    write_folder(quantized_network(made, tmp_path, **RECIPES[recipe]), tmp_path / "out")
    loaded: Any = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(loaded[1].values())


def test_normalizations_that_carry_factors_are_the_networks_own(tmp_path: Path) -> None:
    made = network("LlamaForCausalLM", tmp_path / "folder")
    result, out = quantized_network(made, tmp_path), tmp_path / "out"
    norms = {"q_proj": "input", "k_proj": "input", "v_proj": "input", "gate_proj": "post_attention"}
    norms["up_proj"] = norms["gate_proj"]
    layers = []
    for layer in result.layers:
        owner, _, kind = layer.layer.name.rpartition(".")
        norm = f"{owner.rpartition('.')[0]}.{norms[kind]}_layernorm" if kind in norms else None
        layers.append(layer if norm is None else replace(correct(layer, ("scale",)), scaled_by=norm))
    result = replace(result, layers=layers)
    out.mkdir()
    write_folder(result, out)
    with torch.no_grad():
        theirs = [value for value in open_network(out).run(made.inputs) if isinstance(value, Tensor)]
    assert isinstance(result.source, HuggingFaceSource)
    assert sqnr(outputs_of(result.source, made.inputs), theirs) > 20


def test_corrected_biases_are_the_networks_own_and_what_has_no_place_is_not_written(tmp_path: Path) -> None:
    made = network("BertModel", tmp_path / "folder")
    result = corrected(quantized_network(made, tmp_path), "bias")
    (tmp_path / "out").mkdir()
    write_folder(result, tmp_path / "out")
    opened = dict(open_network(tmp_path / "out").network.named_parameters())
    for layer in result.layers:
        assert layer.bias is not None
        assert torch.equal(opened[bias_name(layer)], layer.bias)
    for part in ("scale", "outliers"):
        with pytest.raises(TypeError, match="no place"):
            write_folder(corrected(result, part), tmp_path / "out")


def test_several_shards_have_an_index(tmp_path: Path) -> None:
    made = network("BertModel", tmp_path / "folder")
    result = quantized_network(made, tmp_path)
    (tmp_path / "out").mkdir()
    write_folder(result, tmp_path / "out", max_shard_bytes=10_000)
    names = sorted(path.name for path in (tmp_path / "out").glob("*.safetensors"))
    assert len(names) > 2
    assert names[0] == f"model-00001-of-{len(names):05}.safetensors"
    assert all((tmp_path / "out" / name).stat().st_size < 25_000 for name in names)
    open_network(tmp_path / "out")


def test_the_rest_of_the_folder_is_carried_through(tmp_path: Path) -> None:
    made = network("BertModel", tmp_path / "folder")
    (tmp_path / "out").mkdir()
    write_folder(quantized_network(made, tmp_path), tmp_path / "out")
    assert (tmp_path / "out" / "tokenizer.json").read_bytes() == (made.folder / "tokenizer.json").read_bytes()


@pytest.mark.sampled(4)
@pytest.mark.parametrize("path", sorted(FACTS.glob("*.json")), ids=lambda path: path.stem)
def test_keys_dtypes_and_shapes_are_those_of_llm_compressor(path: Path, tmp_path: Path) -> None:
    """Its own checkpoints of the same networks and schemes, recorded once."""
    facts = json.loads(path.read_text())
    made = network(facts["model"]["class"], tmp_path / "folder", dtype=torch.bfloat16, **facts["model"]["config"])
    (tmp_path / "out").mkdir()
    write_folder(quantized_network(made, tmp_path, **recipe_of(facts["scheme"])), tmp_path / "out")
    with safe_open(tmp_path / "out" / "model.safetensors", framework="pt") as file:
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        written = {name: [part.get_dtype(), part.get_shape()] for name, part in slices.items()}
    assert written == facts["tensors"]
    ours = json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]
    theirs = QuantizationConfig.model_validate(readable(facts["quantization_config"]))
    read = QuantizationConfig.model_validate(readable(ours))
    assert (read.format, sorted(read.ignore or [])) == (theirs.format, sorted(theirs.ignore or []))
    assert without_observers(read) == without_observers(theirs)


def readable(config: dict[str, Any]) -> dict[str, Any]:
    known = QuantizationConfig.model_fields
    return {key: value for key, value in config.items() if key in known}


def without_observers(config: QuantizationConfig) -> Any:
    """How a range was found is each tool's own word."""
    groups = config.model_dump()["config_groups"]
    for group in groups.values():
        for part in ("weights", "input_activations"):
            for key in ("observer", "observer_kwargs"):
                (group[part] or {}).pop(key, None)
    return groups


def recipe_of(scheme: dict[str, Any]) -> dict[str, Any]:
    """The recipe in our words that a scheme in theirs stands for."""
    weights, activations = scheme["weights"], scheme.get("input_activations")
    said: dict[str, Any] = {
        "dtype": dtype_of(weights),
        "scheme": "symmetric" if weights["symmetric"] else "asymmetric",
        "granularity": f"per_{weights['strategy']}",
    }
    if weights["strategy"] == "group":
        said["group_size"] = weights["group_size"]
    if activations is None:
        return {"weights": said, "activations": None}
    kind = "symmetric" if activations["symmetric"] else "asymmetric"
    return {"weights": said, "activations": {"dtype": dtype_of(activations), "scheme": kind}}


def dtype_of(arguments: dict[str, Any]) -> str:
    if arguments["type"] == "float":
        return "float8_e4m3"
    return "int4" if arguments["num_bits"] == 4 else "qint8"
