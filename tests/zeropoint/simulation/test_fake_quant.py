"""A simulated model gives what the saved one will, and the float model is itself again afterwards."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from tests.networks import Example, attention, audio, convolutional, prenorm
from tests.networks_with_corrections import by_hand, corrected
from tests.zeropoint.conftest import QuantizeExample
from zeropoint.data.batches import ModelInputs
from zeropoint.formats.program.writer import quantized_program
from zeropoint.layers.result import Quantized
from zeropoint.metrics.sqnr import Noise
from zeropoint.model.source import floating_outputs as outputs
from zeropoint.primitives.qparams import QUINT8, QParams, dequantize, quantize
from zeropoint.simulation.fake_quant import fake_quantize, forward_quantized, simulated

EXAMPLES = [convolutional, audio, attention, prenorm]
RECIPES: dict[str, dict[str, object]] = {
    "int8": {},
    "float8": {"weights": {"dtype": "float8_e4m3"}, "activations": {"dtype": "float8_e4m3"}},
    "int4": {"weights": {"dtype": "int4", "group_size": 2}, "activations": None, "layer_types": ["Linear"]},
    "cast": {"weights": {"dtype": "bfloat16"}, "activations": None},
}
PAIRS = [(make, name) for make in EXAMPLES for name in RECIPES if name != "int4" or make in (attention, prenorm)]


def simulate(result: Quantized, inputs: tuple[Tensor, ...]) -> list[Tensor]:
    with simulated(result.layers):
        return outputs(result.source, ModelInputs(inputs))


def far_apart(left: list[Tensor], right: list[Tensor]) -> float:
    noise = Noise()
    for one, other in zip(left, right, strict=True):
        noise.add(one, other)
    return noise.noise / noise.signal


def run(result: Quantized, inputs: tuple[Tensor, ...]) -> list[Tensor]:
    with torch.no_grad():
        given = quantized_program(result).module()(*inputs)
    return [one for one in tree_leaves(given) if isinstance(one, Tensor) and one.is_floating_point()]


@pytest.mark.sampled(4)
@pytest.mark.parametrize(("make", "recipe"), PAIRS, ids=lambda value: getattr(value, "__name__", value))
def test_it_gives_what_the_program_will(quantized: QuantizeExample, make: Callable[[], Example], recipe: str) -> None:
    example = make()
    result = quantized(example, **RECIPES[recipe])
    assert far_apart(run(result, example.inputs), simulate(result, example.inputs)) < 1e-9


def test_with_all_that_algorithms_leave_beside_the_numbers_too(quantized: QuantizeExample) -> None:
    example = prenorm()
    result = corrected(quantized(example))
    assert far_apart(run(result, example.inputs), simulate(result, example.inputs)) < 1e-9


def test_a_layer_by_itself_computes_the_formula(quantized: QuantizeExample) -> None:
    result = corrected(quantized(prenorm()))
    for layer in result.layers:
        values = torch.randn(3, layer.weight.shape[1])
        torch.testing.assert_close(forward_quantized(layer, values), by_hand(layer, values))


def test_the_float_model_is_itself_again_also_after_a_failure(quantized: QuantizeExample) -> None:
    example = convolutional()
    result = corrected(quantized(example))
    before = outputs(result.source, ModelInputs(example.inputs))
    with pytest.raises(Exception, match="size"), simulated(result.layers):
        outputs(result.source, ModelInputs([torch.zeros(1, 9, 1, 1)]))
    assert far_apart(before, outputs(result.source, ModelInputs(example.inputs))) == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_one_sweep_over_memory_lays_values_where_two_do(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    grid = QParams(QUINT8, torch.tensor(0.037), torch.tensor(101))
    values = (torch.randn(4096) * 4).to(dtype)
    assert torch.equal(fake_quantize(values, grid), dequantize(quantize(values, grid), grid).to(dtype))


def test_layers_without_a_module_are_passed_over(quantized: QuantizeExample) -> None:
    result = quantized(convolutional())
    module = next(layer.layer.module for layer in result.layers)
    assert isinstance(module, nn.Module)
    with simulated([]):
        assert not module._forward_hooks
