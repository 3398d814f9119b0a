"""Equalized layers through the files: the integers stay, scales and biases absorb the factors, every format agrees."""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from tests.networks import Example
from tests.onnx_sessions import session
from tests.processor import EXACT_ONNXRUNTIME
from tests.uneven_networks import PAIRS, chain, pair
from tests.zeropoint.conftest import QuantizeExample
from zeropoint.formats import write_formats
from zeropoint.layers.result import Quantized
from zeropoint.loading.restore import restore
from zeropoint.loading.stored import read_safetensors
from zeropoint.metrics.sqnr import Noise
from zeropoint.model.source import floating_outputs
from zeropoint.schema.metadata import LAYER_KEY
from zeropoint.simulation.fake_quant import simulated

EQUALIZED = {"algorithms": [{"kind": "equalization"}], "validation": {"on_failure": "warn"}}
NETWORKS: Mapping[str, Callable[[], Example]] = {**{kind: partial(pair, kind) for kind in PAIRS}, "chain": chain}


@pytest.fixture(params=NETWORKS)
def network(request: pytest.FixtureRequest) -> Example:
    return NETWORKS[request.param]()


def without_factors(result: Quantized) -> Quantized:
    """Return the result with the first layer's factors multiplied at run time instead."""
    return replace(result, layers=[replace(layer, scaled_by=None) for layer in result.layers])


@pytest.mark.sampled(11)
def test_every_format_computes_what_the_simulation_does(
    quantized: QuantizeExample, network: Example, tmp_path: Path
) -> None:
    result = quantized(network, formats=["safetensors", "pt2", "onnx"], **EQUALIZED)
    samples = network.dataset["input"][:40]
    with simulated(result.layers):
        (expected,) = floating_outputs(result.source, [samples])
    list(write_formats(result, tmp_path, ("safetensors", "pt2", "onnx")))
    program = torch.export.load(tmp_path / "model.pt2").module()(samples)
    torch.testing.assert_close(program, expected, rtol=1e-5, atol=1e-6)
    stored = read_safetensors(tmp_path / "model.safetensors")
    restored = restore(result.source, stored)
    with simulated(restored.layers):
        (again,) = floating_outputs(result.source, [samples])
    assert torch.equal(again, expected)
    (exact,) = floating_outputs(result.source, [samples])
    for optimized in (False, *([True] if EXACT_ONNXRUNTIME else [])):
        opened = session((tmp_path / "model.onnx").read_bytes(), optimized=optimized)
        found = torch.from_numpy(opened.run(None, {opened.get_inputs()[0].name: samples.numpy()})[0])
        assert db(exact, found) > db(exact, expected) - 3


def db(expected: torch.Tensor, found: torch.Tensor) -> float:
    noise = Noise()
    noise.add(expected, found)
    return noise.db or 0.0


def test_the_first_layer_s_integers_don_t_change(quantized: QuantizeExample, network: Example, tmp_path: Path) -> None:
    result = quantized(network, **EQUALIZED)
    plain = without_factors(result).tensors
    stored = result.tensors
    assert torch.equal(stored["first.weight"], plain["first.weight"])
    ratio = stored["first.weight_scale"] / plain["first.weight_scale"]
    assert torch.equal(torch.frexp(ratio).mantissa, torch.full_like(ratio, 0.5))
    assert bool((ratio != 1).any())
    assert result.bytes == sum(tensor.nbytes for tensor in stored.values())


def test_the_header_names_what_absorbs_the_factors(quantized: QuantizeExample, tmp_path: Path) -> None:
    result = quantized(pair("conv2d"), **EQUALIZED)
    list(write_formats(result, tmp_path, ("safetensors",)))
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        about = {name: json.loads(file.metadata()[LAYER_KEY + name]) for name in ("first", "second")}
    assert (about["second"]["scaled_by"], about["second"]["pre_quant_scale"]) == ("first", "second.pre_quant_scale")
    assert about["first"]["bias"] == "first.bias"
    stored = load_file(tmp_path / "model.safetensors")
    assert torch.equal(stored["first.bias"], result.source.tensors["first.bias"] * stored["second.pre_quant_scale"])


def test_restored_layers_are_those_that_were_saved(quantized: QuantizeExample, tmp_path: Path) -> None:
    result = quantized(pair("conv2d"), **EQUALIZED)
    list(write_formats(result, tmp_path, ("safetensors",)))
    restored = restore(result.source, read_safetensors(tmp_path / "model.safetensors"))
    for before, after in zip(result.layers, restored.layers, strict=True):
        assert before.qparams is not None
        assert after.qparams is not None
        assert torch.equal(before.qparams.scale, after.qparams.scale)
        assert before.weight_sqnr_db == pytest.approx(after.weight_sqnr_db)
    assert result.tensors.keys() == restored.tensors.keys()
    assert all(torch.equal(tensor, restored.tensors[name]) for name, tensor in result.tensors.items())


@pytest.mark.parametrize("kind", ["linear", "conv2d", "transposed", "grouped"])
def test_a_layer_in_float_absorbs_them_in_its_weight(quantized: QuantizeExample, kind: str, tmp_path: Path) -> None:
    network = pair(kind)
    result = quantized(network, exclude=["first"], **EQUALIZED)
    assert [layer.scaled_by for layer in result.layers] == ["first"]
    samples = network.dataset["input"][:40]
    with simulated(result.layers):
        (expected,) = floating_outputs(result.source, [samples])
    list(write_formats(result, tmp_path, ("safetensors", "pt2")))
    program = torch.export.load(tmp_path / "model.pt2").module()(samples)
    torch.testing.assert_close(program, expected, rtol=1e-5, atol=1e-6)
    stored = load_file(tmp_path / "model.safetensors")
    assert not torch.equal(stored["first.weight"], result.source.tensors["first.weight"])
    again = restore(result.source, read_safetensors(tmp_path / "model.safetensors"))
    assert all(torch.equal(tensor, again.tensors[name]) for name, tensor in result.tensors.items())
