"""What error compensation leaves, in `model.pt2`: products, biases and float inputs around int8 layers."""

from collections import Counter
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.networks import Example, attention, audio, convolutional, prenorm, projections
from tests.networks_with_corrections import EVERYTHING, by_hand, corrected
from tests.patterns import sequence, unbatched, vision
from tests.zeropoint.conftest import QuantizeExample
from zeropoint.formats.program.writer import quantized_program, write_program
from zeropoint.layers.quantized_layer import QuantizedLayer
from zeropoint.layers.result import Quantized

pytestmark = [pytest.mark.sampled(5), pytest.mark.filterwarnings("ignore:Using padding='same':UserWarning")]

EXAMPLES = [convolutional, audio, attention, projections, vision, sequence, unbatched]


@pytest.mark.parametrize("decompose", [False, True], ids=["exported", "decomposed"])
@pytest.mark.parametrize("make", EXAMPLES, ids=lambda make: make.__name__)
def test_the_program_computes_the_formula(quantized: QuantizeExample, make: object, decompose: bool) -> None:
    example: Example = make()  # type: ignore[operator]
    _computes_the_formula(corrected(quantized(example, decompose=decompose)), example)


@pytest.mark.parametrize("part", EVERYTHING)
def test_each_part_stands_by_itself(quantized: QuantizeExample, part: str) -> None:
    example = projections()
    _computes_the_formula(corrected(quantized(example), part), example)


@pytest.mark.parametrize("decompose", [False, True], ids=["exported", "decomposed"])
def test_an_operator_without_a_bias_gets_one(quantized: QuantizeExample, decompose: bool) -> None:
    example = projections()
    example.module.query = torch.nn.Linear(4, 4, bias=False)
    result = corrected(quantized(example, decompose=decompose))
    _computes_the_formula(result, example)
    counts = Counter(node.target for node in quantized_program(result).graph.nodes)
    assert counts[torch.ops.aten.mm.default] == int(decompose)  # of the scores, which are no layer's
    assert counts[torch.ops.aten.addmm.default] == (2 if decompose else 0)


def _computes_the_formula(result: Quantized, example: Example) -> None:
    with torch.no_grad():
        got = torch.utils._pytree.tree_leaves(quantized_program(result).module()(*example.inputs))
        expected = _run_by_hand(result, example.inputs)
    for a, b in zip(expected, got, strict=True):
        torch.testing.assert_close(a, b)


def _run_by_hand(result: Quantized, inputs: tuple[Tensor, ...]) -> list[object]:
    with ExitStack() as stack:
        for layer in result.layers:
            assert layer.layer.module is not None
            hook = layer.layer.module.register_forward_hook(partial(_in_place, layer))
            stack.callback(hook.remove)
        return result.source.run(inputs)


def _in_place(layer: QuantizedLayer, module: torch.nn.Module, given: tuple[Tensor, ...], output: Tensor) -> Tensor:
    """What a hook gives in place of the float layer's output, or of a weight that an operator of its own reads."""
    return layer.dequantized_weight.to(output.dtype) if layer.layer.is_held else by_hand(layer, given[0])


def test_layers_that_read_the_same_values_share_product_and_pair(quantized: QuantizeExample) -> None:
    program = quantized_program(corrected(quantized(projections())))
    counts = Counter(str(node.target) for node in program.graph.nodes)
    assert counts["aten.mul.Tensor"] == counts["quantized_decomposed.quantize_per_tensor.default"] == 1
    assert counts["aten.index_select.default"] == 1
    assert "key.pre_quant_scale" not in program.state_dict


def test_another_factor_takes_another_product(quantized: QuantizeExample) -> None:
    result = corrected(quantized(projections()), "scale")
    first, second = result.layers
    assert second.pre_quant_scale is not None
    layers = [first, replace(second, pre_quant_scale=second.pre_quant_scale * 0.5)]
    counts = Counter(str(node.target) for node in quantized_program(replace(result, layers=layers)).graph.nodes)
    assert counts["aten.mul.Tensor"] == counts["quantized_decomposed.quantize_per_tensor.default"] == 2


def test_a_normalization_that_carries_the_factors_takes_the_product_away(quantized: QuantizeExample) -> None:
    result = quantized(example := prenorm())
    multiplied = corrected(result, "scale")
    layers = [replace(layer, scaled_by=_norm_before(layer.layer.name)) for layer in multiplied.layers]
    carried = replace(multiplied, layers=layers)
    program = quantized_program(carried)
    counts = Counter(str(node.target) for node in program.graph.nodes)
    assert counts["aten.mul.Tensor"] == 1  # before `down`, which no normalization stands before
    with torch.no_grad():
        got, expected = program.module()(*example.inputs), quantized_program(multiplied).module()(*example.inputs)
    torch.testing.assert_close(got, expected, atol=0.02, rtol=0.02)  # a value between two steps may fall either way
    factors = layers[0].pre_quant_scale
    assert factors is not None
    for name in ("norm.weight", "norm.bias"):
        torch.testing.assert_close(program.state_dict[name], result.source.tensors[name] * factors)


def _norm_before(name: str) -> str | None:
    return {"down": None, "up": "last_norm"}.get(name, "norm")


def test_shapes_stay_dynamic_and_inputs_of_any_batch_run(quantized: QuantizeExample) -> None:
    example = vision()
    program = quantized_program(corrected(quantized(example)))
    assert [(bounds.lower, bounds.upper) for bounds in program.range_constraints.values()] == [(1, 1024)]
    program.module()(*(torch.cat([tensor] * 3) for tensor in example.inputs))


def test_the_program_holds_what_the_layers_store(quantized: QuantizeExample, tmp_path: Path) -> None:
    result = corrected(quantized(convolutional()))
    write_program(result, tmp_path / "out.pt2")
    state, tensors = torch.export.load(tmp_path / "out.pt2").state_dict, result.tensors
    added = {"head.pre_quant_scale", "head.outlier_channels", "head.outlier_weight", "head.bias", "features.0.bias"}
    assert added < state.keys()
    assert all(torch.equal(state[name], tensors[name]) for name in added)
