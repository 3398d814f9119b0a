"""Q/DQ pairs at fused outputs: inserted where integers can stay integers, and nowhere else."""

import pytest
import torch
from torch import Tensor, nn
from torch.fx import Node

from tests.networks import BATCH, Example, residual
from tests.zeropoint.conftest import QuantizeExample
from zeropoint.formats.program.writer import quantized_program
from zeropoint.layers.result import Quantized
from zeropoint.search import integer_outputs

ADD, QUANTIZE = torch.ops.aten.add.Tensor, torch.ops.quantized_decomposed.quantize_per_tensor.default


@pytest.fixture(autouse=True)
def _at_any_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    """tests/zeropoint/search/test_integer_outputs.py is about what it costs."""
    monkeypatch.setattr(integer_outputs, "MOST_LOST_DB", 40.0)


def quantized_values(result: Quantized, *, outputs: bool) -> list[str]:
    """The names of the values that are made integer."""
    graph = quantized_program(result, outputs=outputs).graph
    nodes = [
        node for node in graph.nodes if "quantize_per_tensor" in str(node.target) and "deq" not in str(node.target)
    ]
    return [node.args[0].name for node in nodes if isinstance(node.args[0], Node)]


def test_sums_read_from_pairs_and_layers_share_them(quantized: QuantizeExample) -> None:
    result = quantized(residual(), formats=["onnx"])
    assert quantized_values(result, outputs=False) == ["images", "relu", "max_pool2d", "flatten"]
    assert quantized_values(result, outputs=True) == ["images", "relu", "relu_1", "max_pool2d", "relu_2", "flatten"]


def test_the_grid_of_a_layer_serves_the_others_that_read_the_value(quantized: QuantizeExample) -> None:
    override = {"names": ["block.0"], "activations": {"dtype": "qint8"}}
    program = quantized_program(quantized(residual(), formats=["onnx"], overrides=[override]), outputs=True)
    readers = next(node for node in program.graph.nodes if node.name == "relu").users
    assert [reader.args[-1] for reader in readers] == [torch.int8]


class Case(nn.Module):
    """A convolution, what a subclass does with it, and a layer behind."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 3)
        self.norm = nn.BatchNorm2d(4)

    def between(self, values: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.second(self.between(self.first(x)))
        return output


class Moved(Case):
    def between(self, values: Tensor) -> Tensor:
        padded: Tensor = nn.functional.pad(torch.max_pool2d(torch.relu(values), 2), (1, 1))
        return padded


class Normalized(Case):
    """ReLU before BN: the value goes on in float."""

    def between(self, values: Tensor) -> Tensor:
        normalized: Tensor = self.norm(torch.relu(values))
        return normalized


class Sigmoid(Case):
    def between(self, values: Tensor) -> Tensor:
        squashed: Tensor = values.sigmoid()
        return squashed


class Carried(Case):
    """A two-sided value that a layer reads and a sum carries on."""

    def forward(self, x: Tensor) -> Tensor:
        values = self.first(x)
        output: Tensor = self.second(values) + self.second(values + values)
        return output


@pytest.mark.parametrize(
    ("module", "pairs"),
    [(Moved(), 3), (Normalized(), 2), (Sigmoid(), 2)],
    ids=lambda value: type(value).__name__,
)
def test_an_outlet_gets_a_pair_where_its_value_stays_integer(
    quantized: QuantizeExample, module: Case, pairs: int
) -> None:
    x = torch.randn(8, 1, 8, 8)
    result = quantized(Example(module, (x[:2],), {"x": {0: BATCH}}, {"x": x}), formats=["onnx"])
    assert len(quantized_values(result, outputs=True)) == pairs


def test_a_sum_reads_a_two_sided_value_in_float_beside_a_layer(quantized: QuantizeExample) -> None:
    x = torch.randn(8, 1, 8, 8)
    result = quantized(Example(Carried(), (x[:2],), {"x": {0: BATCH}}, {"x": x}), formats=["onnx"])
    nodes = {node.name: node for node in quantized_program(result, outputs=True).graph.nodes}
    assert {reader.target for reader in nodes["conv2d"].users} == {ADD, QUANTIZE}
    assert len(quantized_values(result, outputs=True)) == 3


def test_without_grids_at_outlets_both_programs_are_the_same(quantized: QuantizeExample) -> None:
    result = quantized(residual())
    assert quantized_values(result, outputs=True) == quantized_values(result, outputs=False)
