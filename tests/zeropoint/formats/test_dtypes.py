"""Every dtype through the whole way: program out, load-back, and what plain torch computes from the files."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.job_program import shared_second_process
from tests.matrix import settings
from tests.networks import Example, attention, convolutional, recurrent
from tests.zeropoint.conftest import QuantizeExample
from zeropoint.formats import VALIDATED, write_formats
from zeropoint.formats.program.writer import quantized_program
from zeropoint.loading.loadback import LoadbackClient
from zeropoint.metrics.sqnr import Noise

pytestmark = pytest.mark.sampled(5)

LEAST_DB = {
    "asymmetric weights": 30,
    "per tensor": 28,
    "scales along another axis": 28,
    "static int8, symmetric activations": 28,
    "weights in quint8": 30,
    "float16": 60,
    "bfloat16": 40,
    "static float8": 20,
    "weight-only float8, per tensor": 24,
    "weight-only int4 in groups": 20,
    "weight-only int4 in groups, symmetric": 18,
    "static int8 in groups": 30,
}


def recipe_of(name: str) -> dict[str, Any]:
    """Convolutions have no groups."""
    return settings(name) | ({"include": ["head"]} if "groups" in name else {})


@pytest.fixture(scope="module")
def plain_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoadbackClient]:
    """One for all of this file: to import torch takes it longer than to open and run a program."""
    with shared_second_process(tmp_path_factory.mktemp("exchanged")) as reader:
        yield reader


@pytest.mark.parametrize("name", LEAST_DB)
def test_the_program_in_a_second_process_computes_what_the_layers_say(
    quantized: QuantizeExample, plain_process: LoadbackClient, tmp_path: Path, name: str
) -> None:
    example = convolutional()
    result = quantized(example, **recipe_of(name))
    list(write_formats(result, tmp_path, VALIDATED["pt2"]))
    assert plain_process.open(tmp_path)
    plain_process.start(list(example.inputs))
    outputs = plain_process.finish()
    with torch.no_grad():
        here = quantized_program(result).module()(*example.inputs)
    assert outputs is not None
    torch.testing.assert_close(outputs[0], here)
    noise = Noise()
    noise.add(example.module.eval()(*example.inputs), outputs[0])
    assert noise.db is not None
    assert noise.db > LEAST_DB[name]


@pytest.mark.parametrize("name", LEAST_DB)
def test_the_layers_in_the_graph_are_the_librarys_own_numbers(quantized: QuantizeExample, name: str) -> None:
    """The float weights that the graph's nodes make are, bit for bit, what the library decodes."""
    result = quantized(convolutional(), **recipe_of(name))
    program = quantized_program(result)
    with torch.no_grad():
        interpreter = WeightsOf(program.module(check_guards=False))
        interpreter.run(torch.randn(2, 1, 8, 8))
    made = interpreter.weights
    for layer in result.layers:
        assert any(
            tensor.shape == layer.weight.shape and torch.equal(tensor, layer.dequantized_weight) for tensor in made
        ), layer.layer.name


class WeightsOf(torch.fx.Interpreter):
    """Keeps the second argument of every linear and convolution."""

    def __init__(self, module: torch.fx.GraphModule) -> None:
        super().__init__(module)
        self.weights: list[torch.Tensor] = []

    def call_function(self, target: object, args: tuple[object, ...], kwargs: dict[str, object]) -> object:
        if any(word in str(target) for word in ("linear", "conv")) and isinstance(args[1], torch.Tensor):
            self.weights.append(args[1])
        return super().call_function(target, args, kwargs)  # type: ignore[arg-type]


def test_int4_takes_half_a_byte_a_number(quantized: QuantizeExample, tmp_path: Path) -> None:
    result = quantized(convolutional(), weights={"dtype": "int4", "group_size": 8}, include=["head"])
    list(write_formats(result, tmp_path, VALIDATED["pt2"]))
    stored = load_file(tmp_path / "model.safetensors")
    assert (stored["head.weight"].dtype, stored["head.weight"].shape) == (torch.uint8, (10, 36))
    assert stored["head.weight_scale"].shape == (10, 9)


def test_a_convolution_has_no_groups_and_says_so(quantized: QuantizeExample) -> None:
    result = quantized(convolutional(), weights={"dtype": "int4", "group_size": 8})
    assert {skip.name: skip.reason for skip in result.skipped}["features.0"] == "granularity_unsupported"


def test_a_group_that_does_not_divide_the_inputs_is_told(quantized: QuantizeExample) -> None:
    result = quantized(
        convolutional(),
        weights={"granularity": "per_group", "group_size": 7},
        overrides=[{"names": ["features.*"], "weights": {"dtype": "qint8"}}],
    )
    assert {skip.name: skip.reason for skip in result.skipped}["head"] == "group_size_mismatch"


class Mixed(torch.nn.Module):
    """One of each layer type that is not in the other networks."""

    def __init__(self) -> None:
        super().__init__()
        self.table = torch.nn.Embedding(12, 8)
        self.up1 = torch.nn.ConvTranspose1d(8, 6, 3, stride=2, padding=1, output_padding=1)
        self.up2 = torch.nn.ConvTranspose2d(6, 4, 3, groups=2, bias=False)
        self.volume = torch.nn.Conv3d(1, 3, 3, padding=1)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        sequence = self.up1(self.table(ids).transpose(1, 2))
        picture = self.up2(sequence.unsqueeze(2))
        output: torch.Tensor = self.volume(picture.unsqueeze(1))
        return output


@pytest.mark.parametrize("decompose", [False, True], ids=["exported", "decomposed"])
def test_every_layer_type_is_quantized(quantized: QuantizeExample, decompose: bool) -> None:
    torch.manual_seed(0)
    ids = torch.randint(0, 12, (16, 10))
    example = Example(Mixed(), (ids[:2],), None, {"ids": ids})
    types = ["Embedding", "ConvTranspose1d", "ConvTranspose2d", "Conv3d"]
    result = quantized(example, decompose=decompose, layer_types=types, skip_layers=[])
    assert {layer.layer.name: layer.layer.kind for layer in result.layers} == {
        "table": "Embedding",
        "up1": "ConvTranspose1d",
        "up2": "ConvTranspose2d",
        "volume": "Conv3d",
    }
    scales = {
        layer.layer.name: None if layer.qparams is None else list(layer.qparams.scale.shape) for layer in result.layers
    }
    assert scales == {"table": [12], "up1": [6], "up2": [2], "volume": [3]}
    noise = Noise()
    with torch.no_grad():
        noise.add(example.module.eval()(ids[:2]), quantized_program(result).module()(ids[:2]))
    assert noise.db is not None
    assert noise.db > 30


def test_tied_weights_stay_tied(quantized: QuantizeExample, tmp_path: Path) -> None:
    example = attention()
    result = quantized(example, layer_types=["Linear", "Embedding"], skip_layers=[])
    list(write_formats(result, tmp_path, VALIDATED["pt2"]))
    stored = load_file(tmp_path / "model.safetensors")
    assert [name for name, tensor in stored.items() if tensor.shape == (20, 8)] == ["head.weight"]
    program = torch.export.load(tmp_path / "model.pt2")
    assert [name for name, tensor in program.state_dict.items() if tensor.shape == (20, 8)] == ["head.weight"]
    noise = Noise()
    with torch.no_grad():
        noise.add(example.module.eval()(*example.inputs), program.module()(*example.inputs))
    assert noise.db is not None
    assert noise.db > 25


def test_an_embedding_has_no_static_input(quantized: QuantizeExample) -> None:
    ids = torch.randint(0, 12, (16, 10))
    example = Example(Mixed(), (ids[:2],), None, {"ids": ids})
    result = quantized(example, layer_types=["Embedding"], skip_layers=[])
    assert result.layers[0].activation is None


def test_the_projections_of_recurrent_cells_are_layers_where_the_graph_shows_them(quantized: QuantizeExample) -> None:
    result = quantized(recurrent(), decompose=True, layer_types=["GRUCell", "LSTMCell"])
    kinds = {"gru.ih": "GRUCell", "gru.hh": "GRUCell", "lstm.ih": "LSTMCell", "lstm.hh": "LSTMCell"}
    assert {layer.layer.name: layer.layer.kind for layer in result.layers} == kinds
    assert {"gru.weight_ih", "gru.weight_ih_scale"} <= set(result.tensors)
    assert "gru.ih.input_scale" not in result.tensors  # its rounded state would come back at every step
