"""Tensor by tensor, block by block, the same comes out as from whole weights; and memory doesn't grow with them."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.servers import ROOT
from tests.weight_files import PROJECTIONS, transformer
from zeropoint.engine.streaming import stream
from zeropoint.files.block_reader import BLOCK_VALUES
from zeropoint.files.checkpoints import NO_CHECKPOINTS
from zeropoint.files.stream_writer import TensorWriter
from zeropoint.layers.checkpoints import searched_qparams
from zeropoint.layers.quantized_layer import QuantizedLayer
from zeropoint.layers.selection import select
from zeropoint.layers.stored_tensors import stored_bytes
from zeropoint.layers.weights import WeightNames, dequantize_weight, quantize_weight, to_tensors
from zeropoint.metrics.sqnr import Noise
from zeropoint.schema.recipe import Recipe, WeightSettings
from zeropoint.sources.weights import open_weights

OUT = "out.safetensors"


def streamed(path: Path, recipe: dict[str, Any]) -> list[QuantizedLayer]:
    """Stream a file into OUT beside it, and give the layers."""
    source = open_weights(path)
    choices, _ = select(source.layers, Recipe.model_validate({"activations": None, **recipe}))
    with TensorWriter(path.parent) as writer:
        by_weight = {str(choice.layer.weight_name): choice for choice in choices}
        layers = list(stream(source, by_weight, writer, searched_qparams(NO_CHECKPOINTS, choices), lambda *_: None))
        writer.finish(path.parent / OUT, {})
    return layers


def saved(path: Path, tensors: dict[str, Tensor]) -> Path:
    save_file(tensors, path)
    return path


@pytest.mark.parametrize(
    "weights",
    [
        {},
        {"scheme": "asymmetric", "dtype": "quint8"},
        {"granularity": "per_tensor"},
        {"granularity": "per_tensor", "observer": {"kind": "percentile", "percentile": 99}},
        {"axis": 1},
        {"axis": 1, "observer": {"kind": "mse"}},
        {"granularity": "per_group", "group_size": 16},
        {"dtype": "int4"},
        {"dtype": "int4", "scheme": "symmetric", "observer": {"kind": "mse"}},
        {"dtype": "float8_e4m3"},
        {"dtype": "float16"},
        {"dtype": "bfloat16"},
    ],
    ids=json.dumps,
)
@pytest.mark.parametrize("block_values", [200, BLOCK_VALUES])
def test_every_tensor_is_what_the_whole_weight_would_give(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, weights: dict[str, Any], block_values: int
) -> None:
    monkeypatch.setattr("zeropoint.files.block_reader.BLOCK_VALUES", block_values)
    tensors = transformer(torch.float32)
    layers = {
        str(layer.layer.weight_name): layer for layer in streamed(saved(tmp_path / "in", tensors), {"weights": weights})
    }
    assert layers.keys() == {f"{name}.weight" for name in (*PROJECTIONS, "lm_head")}
    expected, settings = dict(tensors), WeightSettings.model_validate(weights)
    for name, layer in layers.items():
        encoded, qparams = quantize_weight(tensors[name], settings, settings.axis or 0)
        expected |= to_tensors(WeightNames.usual(name), settings, encoded, qparams)
        noise = Noise()
        noise.add(tensors[name], dequantize_weight(encoded, qparams))
        assert layer.weight_sqnr_db == pytest.approx(noise.db)
        assert stored_bytes(layer) == sum(
            t.nbytes for t in to_tensors(WeightNames.usual(name), settings, encoded, qparams).values()
        ) + (0 if layer.layer.bias is None else 256)
    found = load_file(tmp_path / OUT)
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype, name
        assert torch.equal(found[name].float(), tensor.float()), name


def test_convolutions_are_quantized_by_their_outputs(tmp_path: Path) -> None:
    tensors = {"a.weight": torch.randn(6, 4, 3, 3), "b.weight": torch.randn(4, 2, 5)}
    streamed(saved(tmp_path / "in", tensors), {})
    found = load_file(tmp_path / OUT)
    assert {name: list(found[f"{name}.weight_scale"].shape) for name in "ab"} == {"a": [6], "b": [4]}
    assert torch.equal(found["a.weight"], quantize_weight(tensors["a.weight"], WeightSettings(), 0)[0])


def test_no_tensor_is_held_whole(tmp_path: Path) -> None:
    """Two weights of 32 MiB; a float32 copy of one takes 64."""
    small = saved(tmp_path / "small", {"a.weight": torch.ones(2**9, 2**10, dtype=torch.bfloat16)})
    weight = torch.ones(2**12, 2**12, dtype=torch.bfloat16)
    large = saved(tmp_path / "large", {"a.weight": weight, "b.weight": weight.clone()})
    program = """
import resource, sys
from pathlib import Path
from tests.zeropoint.engine.test_streaming import streamed
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
streamed(Path(sys.argv[1]), {})
before = peak()
streamed(Path(sys.argv[2]), {})
print(peak() - before)
"""
    command = ["env", "OMP_WAIT_POLICY=PASSIVE", sys.executable, "-c", program, str(small), str(large)]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    assert int(done.stdout) < 24
