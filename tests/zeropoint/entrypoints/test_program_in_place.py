"""A module with weights that only its exported program shows is quantized as that program; no other module is."""

import math
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import conv1d, linear, scaled_dot_product_attention
from torch.nn.utils import parametrizations
from torch.utils._pytree import tree_leaves

from tests.spelled_networks import PRODUCTS, Inner, Written, inputs
from zeropoint import load, quantize
from zeropoint.errors import InvalidModel, Unsupported

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::zeropoint.errors.QuantizationWarning"),
]

WIDTH = 12


class Adapted(nn.Linear):
    """A linear with an adapter, in a forward of its own."""

    def __init__(self) -> None:
        super().__init__(WIDTH, WIDTH)
        self.down, self.up = nn.Parameter(torch.randn(4, WIDTH) / 4), nn.Parameter(torch.randn(WIDTH, 4) / 4)

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias) + linear(linear(x, self.down), self.up)


class Chunked(nn.Module):
    """Attention with one parameter for its three projections."""

    def __init__(self) -> None:
        super().__init__()
        self.in_proj_weight = nn.Parameter(torch.randn(3 * WIDTH, WIDTH) / math.sqrt(WIDTH))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * WIDTH))
        self.out_proj = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = linear(x, self.in_proj_weight, self.in_proj_bias).chunk(3, -1)
        out: Tensor = self.out_proj(scaled_dot_product_attention(q, k, v))
        return out


class Convolved(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(WIDTH, WIDTH, 3) / 6)

    def forward(self, x: Tensor) -> Tensor:
        return conv1d(x.transpose(1, 2), self.kernel, padding=1).transpose(1, 2)


class ReadsOfItsChild(nn.Module):
    """The parent multiplies by its child's weight, before or after the child does."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc(x)
        return out + linear(x, self.fc.weight)


def written(name: str) -> nn.Module:
    return Written(PRODUCTS[name].forward, PRODUCTS[name].tensors())


NETWORKS: Mapping[str, Callable[[], nn.Module]] = {
    "adapter": Adapted,
    "chunked projections": Chunked,
    "convolution": Convolved,
    "parametrized weight norm": lambda: parametrizations.weight_norm(nn.Linear(WIDTH, WIDTH)),
    "parametrized spectral norm": lambda: parametrizations.spectral_norm(nn.Linear(WIDTH, WIDTH)),
    "a child's weight": ReadsOfItsChild,
    **{name: partial(written, name) for name in ("linear", "matmul", "chunked")},
}


def samples() -> list[tuple[Tensor]]:
    return [(inputs(4, seed),) for seed in range(8)]


def notes(result: Any) -> list[str]:
    return [warning.detail for warning in result.report.warnings if warning.code == "program_in_place"]


@pytest.mark.sampled(9)
@pytest.mark.parametrize("name", NETWORKS)
def test_every_weight_is_quantized_as_in_the_program(tmp_path: Path, name: str) -> None:
    network = Inner(NETWORKS[name]()).eval()
    result = quantize(network, samples())
    program = quantize(
        torch.export.export(network, samples()[0], dynamic_shapes=({0: torch.export.Dim.AUTO},)), samples()
    )
    assert {layer.name for layer in result.report.layers} == {layer.name for layer in program.report.layers}
    assert (result.report.verdict, len(notes(result)), notes(program)) == ("passed", 1, [])
    assert not result.no_program
    assert result.report.summary.weights_in_float == 0
    result.save(tmp_path)
    with torch.no_grad():
        for batch in (1, 3, 7):
            assert torch.equal(load(tmp_path)(inputs(batch)), result(inputs(batch)))
            torch.testing.assert_close(result(inputs(batch)), network(inputs(batch)), atol=0.5, rtol=0)
    with pytest.raises(InvalidModel, match="without a model"):
        load(tmp_path, model=network)


LAYERS: Mapping[str, Callable[[], nn.Module]] = {
    "linear": lambda: nn.Linear(WIDTH, 8),
    "convolution": lambda: nn.Conv1d(5, 6, 3, padding=1),
    "lstm": lambda: nn.LSTM(WIDTH, 8, num_layers=2, bidirectional=True, batch_first=True),
    "gru": lambda: nn.GRU(WIDTH, 8, batch_first=True),
}


@pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS)
def test_a_layer_by_itself_is_a_program(tmp_path: Path, make: Callable[[], nn.Module]) -> None:
    layer = make()
    result = quantize(layer, samples())
    assert {each.type for each in result.report.layers} == {type(layer).__name__}
    assert result.report.summary.weights_in_float == 0
    result.save(tmp_path)
    with torch.no_grad():
        outputs = [tree_leaves(model(inputs(3))) for model in (layer, load(tmp_path), result)]
    for float_output, loaded, output in zip(*outputs, strict=True):
        assert torch.equal(loaded, output)
        torch.testing.assert_close(output, float_output, atol=0.2, rtol=0)
    time_first = nn.GRU(WIDTH, 8)  # torch.export fixes the number of steps
    with pytest.raises(Unsupported, match="has no name"):
        quantize(time_first, samples())
    with pytest.raises(Unsupported, match="has no name"):
        quantize(layer, recipe="int8-weight-only")
    with pytest.raises(Unsupported, match="has no name"):
        quantize(layer, samples(), export=False)


def test_attention_by_itself_is_a_program_and_beside_layers_is_not() -> None:
    class Encoder(nn.Module):
        def __init__(self, out: nn.Module) -> None:
            super().__init__()
            self.attention, self.out = nn.MultiheadAttention(WIDTH, 2, batch_first=True), out

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.out(self.attention(x, x, x, need_weights=False)[0])
            return out

    beside = quantize(Encoder(nn.Linear(WIDTH, WIDTH)), samples())
    assert (notes(beside), [layer.name for layer in beside.report.layers]) == ([], ["out"])
    result = quantize(Encoder(nn.Identity()), samples())
    assert len(notes(result)) == 1
    assert result.report.summary.weights_in_float == 0


def test_keywords_labels_and_streams_reach_the_program() -> None:
    class Named(Inner):
        def forward(self, x: Tensor, *, gain: Tensor, shift: Tensor) -> Tensor:  # type: ignore[override]
            return super().forward(x) * gain + shift

    network = Named(Chunked()).eval()
    rows = [{"shift": torch.randn(4, 1, 1), "x": inputs(4, seed), "gain": torch.rand(4, 1, 1)} for seed in range(8)]
    result = quantize(network, rows, evaluation_data=iter(rows[:3]))
    assert len(notes(result)) == 1
    assert (result.report.evaluation.source, result.report.evaluation.samples) == ("evaluation_dataset", 12)
    with torch.no_grad():
        torch.testing.assert_close(result(**rows[0]), network(**rows[0]), atol=0.5, rtol=0)


class Small(nn.Module):
    """A parameter of the user's own, smaller than a tenth of all weights."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.gate = nn.Linear(WIDTH, 8 * WIDTH), nn.Parameter(torch.randn(8, 8 * WIDTH) / 8)
        self.out = nn.Linear(8 * WIDTH, 8 * WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.out(self.body(x))
        return linear(out, self.gate)


class DependsOnData(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.w = nn.Linear(WIDTH, WIDTH), nn.Parameter(torch.randn(WIDTH, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        first: Tensor = self.first(x)
        return linear(first, self.w) if first.sum() > 0 else first


class TakesPositions(nn.Module):
    """A table that is added is no weight that multiplies: a program leaves it in float too."""

    def __init__(self) -> None:
        super().__init__()
        self.positions, self.out = nn.Parameter(torch.randn(5, WIDTH)), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.out(x + self.positions)
        return out


def test_calls_of_one_sample_serve() -> None:
    for rows in ([inputs(1, seed) for seed in range(8)], [inputs(1)], [inputs(3), inputs(1, 2)]):
        result = quantize(Inner(Chunked()), rows, evaluation_data=rows)
        assert len(notes(result)) == 1
        assert result.report.evaluation.samples == sum(map(len, rows))


class Random(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(WIDTH, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.w) + 0.01 * torch.rand_like(x)


def test_random_numbers_are_no_difference() -> None:
    assert len(notes(quantize(Random(), samples()))) == 1


@pytest.mark.parametrize("make", [Small, DependsOnData, TakesPositions])
def test_a_module_stays_where_a_program_gains_little_or_is_none(tmp_path: Path, make: type[nn.Module]) -> None:
    network = make()
    result = quantize(network, samples(), on_failure="ignore")
    assert not notes(result)
    result.save(tmp_path)
    with torch.no_grad():
        assert torch.equal(load(tmp_path, model=network)(inputs(3)), result(inputs(3)))


def test_a_profile_serves_the_program_again(tmp_path: Path) -> None:
    network = Inner(Chunked())
    first, again = (quantize(network, samples(), profile=tmp_path / "profile.safetensors") for _ in range(2))
    assert (first.report.calibration.reused, again.report.calibration.reused) == (False, True)
    assert len(notes(again)) == 1


def test_the_module_itself_is_quantized_on_request() -> None:
    network = Inner(Chunked())
    result = quantize(network, samples(), export=False)
    assert not notes(result)
    assert {layer.name for layer in result.report.layers} == {"first", "mix.out_proj"}
    plan = quantize(network, samples(), recipe={"mode": "recommend"})
    assert len(notes(plan)) == 1
