import hashlib
import json
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file

from tests.networks import attention, convolutional
from tests.zeropoint.conftest import QuantizeExample
from zeropoint.formats.safetensors import write_safetensors
from zeropoint.schema.metadata import FILE_KEY, LAYER_KEY


def test_the_file_alone_gives_the_weights_back(quantized: QuantizeExample, tmp_path: Path) -> None:
    result = quantized(convolutional())
    write_safetensors(result, tmp_path / "model.safetensors")
    stored = load_file(tmp_path / "model.safetensors")
    for layer in result.layers:
        scale = stored[f"{layer.layer.weight_name}_scale"].reshape(-1, *[1] * (layer.weight.dim() - 1))
        restored = stored[str(layer.layer.weight_name)].float() * scale
        assert stored[str(layer.layer.weight_name)].dtype == torch.int8
        torch.testing.assert_close(restored, layer.layer.weight, atol=float(scale.max()) / 2, rtol=0)
        assert torch.equal(stored[f"{layer.layer.name}.bias"], layer.layer.bias)  # type: ignore[arg-type]


def test_the_header_explains_the_file_and_every_layer(quantized: QuantizeExample, tmp_path: Path) -> None:
    result = quantized(convolutional())
    write_safetensors(result, tmp_path / "model.safetensors")
    with safe_open(tmp_path / "model.safetensors", framework="pt") as file:
        metadata, names = file.metadata(), set(file.keys())
    whole = json.loads(metadata[FILE_KEY])
    assert whole["recipe"] == result.recipe.model_dump(mode="json")
    assert whole["architecture"]["quantized"] == {"features.0": "Conv2d", "features.3": "Conv2d", "head": "Linear"}
    assert whole["versions"]["torch"] == torch.__version__
    for layer in result.layers:
        own = json.loads(metadata[LAYER_KEY + layer.layer.name])
        assert {own["weight"]["tensor"], own["weight"]["scale"], own["activation"]["zero_point"]} <= names
        assert own["weight"]["shape"] == list(layer.weight.shape)


def test_nothing_dead_and_no_float_weight_is_stored(quantized: QuantizeExample, tmp_path: Path) -> None:
    write_safetensors(quantized(convolutional()), tmp_path / "model.safetensors")
    stored = load_file(tmp_path / "model.safetensors")
    assert not [name for name in stored if name.startswith("unused")]
    assert {name for name, tensor in stored.items() if tensor.dtype == torch.int8} == {
        "features.0.weight",
        "features.3.weight",
        "head.weight",
    }


def test_the_same_inputs_give_the_same_bytes(quantized: QuantizeExample, tmp_path: Path) -> None:
    digests = set()
    for _ in range(5):
        write_safetensors(quantized(attention()), tmp_path / "model.safetensors")
        digests.add(hashlib.sha256((tmp_path / "model.safetensors").read_bytes()).hexdigest())
    assert len(digests) == 1
