"""Weights that an operator reads as they are, from the float network through every artifact and back."""

import json
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn

from tests.held_networks import EXPERT_PRODUCTS, EXPERTS, IN, OUT, RECURRENT, Held
from tests.spelled_networks import Inner, Written, weight
from zeropoint import load, quantize
from zeropoint.errors import InvalidRecipe
from zeropoint.metrics.sqnr import Noise

SOME = (
    *("LSTM 1 layers", "LSTM 2 layers both ways no bias", "LSTM with projections", "GRU 1 layers both ways"),
    *("RNN of relu", "LSTMCell", "GRUCell no bias"),
    *(
        "bmm",
        "matmul of a transpose",
        "einsum in another order",
        "chosen by the row",
        "heads",
        "halves",
        "read twice",
        "bilinear",
    ),
)
EVERY = {**RECURRENT, **EXPERT_PRODUCTS}
WEIGHTS_ALONE: Any = {"activations": None}

pytestmark = [
    pytest.mark.sampled(11),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore:The tensor attribute:UserWarning"),
    pytest.mark.filterwarnings("ignore:LSTM with projections:UserWarning"),
]


def dequantized(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a file, its weights dequantized by nothing but the file's metadata."""
    with safe_open(path, framework="pt") as file:
        told = {key: json.loads(text) for key, text in file.metadata().items()}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    for key, about in told.items():
        weight = about.get("weight") if key.startswith("zeropoint.layer.") else None
        if weight is None:
            continue
        values, scale = tensors[weight["tensor"]], tensors.pop(weight["scale"])
        zero = weight["zero_point"]
        zero = tensors.pop(zero).float() if isinstance(zero, str) else torch.full_like(scale, zero)
        if scale.dim() == 1:
            shape = [-1 if axis == weight["axis"] else 1 for axis in range(values.dim())]
            scale, zero = scale.reshape(shape), zero.reshape(shape)
        for axis, size in enumerate(scale.shape):
            times = values.shape[axis] // size
            scale, zero = (part.repeat_interleave(times, axis) for part in (scale, zero))
        tensors[weight["tensor"]] = (values.float() - zero) * scale
    return tensors


def noise(reference: Tensor, other: Tensor) -> float:
    """Return the SQNR in dB, 200 where both are equal."""
    measured = Noise()
    measured.add(reference, other)
    return 200.0 if measured.db is None else measured.db


@pytest.mark.parametrize("name", SOME)
def test_the_float_network_with_the_files_values_is_the_program(tmp_path: Path, name: str) -> None:
    held = EVERY[name]
    result = quantize(held.program(), held.samples(), recipe=WEIGHTS_ALONE)
    assert result.report.verdict == "passed"
    assert result.report.summary.weights_in_float == 0
    assert (result.report.summary.sqnr_db or 0) > 35  # the least of these networks has 39.9 dB
    assert {layer.name for layer in result.report.layers} >= held.layers
    result.save(tmp_path)
    again, network, inputs = load(tmp_path), held.module().eval(), held.inputs(6, 99)
    network.load_state_dict(dequantized(tmp_path / "model.safetensors"))
    with torch.no_grad():
        found = again.module(*inputs)
        assert torch.equal(found, result.module(*inputs))
        assert noise(network(*inputs), found) > 110


RECIPES: dict[str, Any] = {
    "int4": {"weights": {"dtype": "int4", "group_size": 4}},
    "int4 symmetric": {"weights": {"dtype": "int4", "group_size": 2, "scheme": "symmetric"}},
    "groups": {"weights": {"granularity": "per_group", "group_size": 4}, "activations": None},
    "asymmetric": {"weights": {"dtype": "quint8", "scheme": "asymmetric"}, "activations": None},
    "whole tensor": {"weights": {"granularity": "per_tensor"}, "activations": None},
    "axis of the outputs": {"weights": {"axis": 0}, "activations": None},
    "float8": "float8-static",
    "half": "float16",
    "accurate": "int8-accurate",
}
LEAST_DB = {"int4": 15, "int4 symmetric": 15, "float8": 22}


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("name", ["GRU 1 layers", "bmm", "einsum in another order"])
def test_every_recipe_holds_and_comes_back(tmp_path: Path, name: str, recipe: str) -> None:
    held = EVERY[name]
    if recipe == "axis of the outputs" and name == "einsum in another order":  # there, dimension 0 is summed over
        with pytest.raises(InvalidRecipe, match="granularity_unsupported"):
            quantize(held.program(), held.samples(), recipe=RECIPES[recipe])
        return
    result = quantize(held.program(), held.samples(), recipe=RECIPES[recipe])
    assert {layer.name for layer in result.report.layers} >= held.layers
    assert (result.report.summary.sqnr_db or 0) > LEAST_DB.get(recipe, 30)
    assert {layer.activation for layer in result.report.layers if layer.name in held.layers} <= {None}
    result.save(tmp_path)
    inputs = held.inputs(6, 99)
    with torch.no_grad():
        assert torch.equal(load(tmp_path).module(*inputs), result.module(*inputs))


@pytest.mark.parametrize("recipe", ["int8", "int4"])
@pytest.mark.parametrize("name", ["LSTM 1 layers both ways", "GRU 1 layers", "matmul", "chosen by the row"])
def test_onnx_dequantizes_in_front_of_the_operator(name: str, recipe: str) -> None:
    held, settings = EVERY[name], {} if recipe == "int8" else {"dtype": "int4", "group_size": 4}
    formats = ["safetensors", "pt2", "onnx"]
    wishes: Any = {"weights": settings, "activations": None, "formats": formats}
    exclude = ["head"] if name in RECURRENT else []  # onnxruntime multiplies int8 linears in its own way
    result = quantize(held.program(), held.samples(), recipe=wishes, exclude=exclude, on_failure="ignore")
    session = onnxruntime.InferenceSession(str(result.files["model.onnx"]))
    inputs = held.inputs(6, 99)
    names = [entry.name for entry in session.get_inputs()]
    (found, *_) = session.run(None, {n: tensor.numpy() for n, tensor in zip(names, inputs, strict=True)})
    with torch.no_grad():
        assert noise(result.module(*inputs), torch.from_numpy(found)) > 100


MODULES = ("LSTM 2 layers both ways", "LSTM with projections", "GRU 1 layers no bias", "RNN 1 layers", "GRUCell")


@pytest.mark.parametrize("name", MODULES)
def test_a_module_gives_the_layers_and_numbers_of_its_program(tmp_path: Path, name: str) -> None:
    held = RECURRENT[name]
    network, inputs = held.module(), held.inputs(6, 99)
    result, program = quantize(network, held.samples()), quantize(held.program(), held.samples())
    told = [[(x.name, x.type, x.weight_sqnr_db) for x in each.report.layers] for each in (result, program)]
    assert sorted(told[0]) == sorted(told[1])
    assert result.report.verdict == "passed"
    assert not result.no_program
    result.save(tmp_path)
    with torch.no_grad():
        expected = program.module(*inputs)
        found = [q.module(*inputs) for q in (result, load(tmp_path), load(tmp_path, held.module()))]
    assert torch.equal(found[0], found[2])
    assert min(noise(expected, each) for each in found) > 110
    with torch.no_grad():
        assert noise(held.module().eval()(*inputs), network.eval()(*inputs)) == 200


class Asks(nn.Module):
    """A network that reads its own recurrent module's attributes, of which one weight stays in float."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.GRU(12, 16, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        start = x.new_zeros(self.net.num_layers, len(x), self.net.hidden_size)
        values: Tensor = self.net(x, start)[0]
        return values


def test_one_weight_of_a_module_may_stay_in_float(tmp_path: Path) -> None:
    held = Held(Asks, RECURRENT["GRU 1 layers"].inputs, frozenset())
    result = quantize(Asks(), held.samples(), exclude=["net.weight_ih_l0"], on_failure="ignore")
    assert [layer.name for layer in result.report.layers] == ["net.hh_l0"]
    assert [(skip.name, skip.reason) for skip in result.report.skipped] == [("net.ih_l0", "excluded")]
    result.save(tmp_path)
    inputs = held.inputs(6, 99)
    with torch.no_grad():
        assert torch.equal(load(tmp_path, Asks()).module(*inputs), result.module(*inputs))


class Linear(Written):
    """A class of the user's with the name of torch's own, whose weight no leaf holds."""


@pytest.mark.parametrize("preset", ["int8", "int8-accurate", "int4-weight-only"])
@pytest.mark.parametrize("name", ["bmm", "LSTM 1 layers"])
def test_algorithms_leave_out_what_has_no_input(name: str, preset: str) -> None:
    held, options = EVERY[name], {} if name in RECURRENT else {"w": weight(EXPERTS, IN, OUT)}

    def experts(module: Any, x: Tensor) -> Tensor:
        return torch.bmm(x[None].expand(EXPERTS, -1, -1), module.w).sum(0)

    build = held.module if name in RECURRENT else lambda: Inner(Linear(experts, options))
    result = quantize(Held(build, held.inputs, held.layers).program(), held.samples(16), recipe=preset)
    assert result.report.summary.weights_in_float == 0
    assert (result.report.summary.sqnr_db or 0) > 25
