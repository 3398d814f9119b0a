"""Equalization: the formula by hand, what it gains on every pair of layers, and that float results stay equal."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from tests.networks import Example
from tests.uneven_networks import CHANNELS, FUNCTIONS, PAIRS, SPREAD, UNPLAIN, chain, example, pair, spread
from tests.zeropoint.conftest import OpenExample, QuantizeExample
from zeropoint.algorithms.equalization import LARGEST_EXPONENT, LEAST, equalizing
from zeropoint.layers.absorption import absorbed_factors, float_tensors
from zeropoint.layers.corrections import beside_weight
from zeropoint.layers.result import Quantized
from zeropoint.model.layer import TRANSPOSED
from zeropoint.model.source import ProgramSource
from zeropoint.schema.decisions import AlgorithmReport

CASES = [(kind, decompose) for kind in PAIRS for decompose in (False, True) if (kind, decompose) not in UNPLAIN]
EQUALIZED = {"algorithms": [{"kind": "equalization"}], "validation": {"on_failure": "warn"}}


def test_the_factors_are_those_of_the_formula() -> None:
    reach, columns = torch.tensor([1.0, 64.0, 1.0, 4.0]), torch.tensor([1.0, 1.0, 16.0, 4.0])
    # √(r₂ / r₁): 1, 1/8, 4, 1
    assert equalizing(reach, columns, reach).tolist() == [1.0, 0.125, 4.0, 1.0]


def test_a_dead_channel_gets_no_more_than_its_weights_would_give() -> None:
    reach, rows = torch.tensor([4.0, 4.0, 0.0, 4.0]), torch.ones(4)
    assert equalizing(reach, torch.ones(4), rows).tolist() == [1.0, 1.0, LEAST**0.5, 1.0]
    assert equalizing(reach, torch.ones(4), torch.zeros(4)).tolist() == [1.0] * 4


def test_channels_that_nothing_reads_don_t_widen_the_range() -> None:
    found = equalizing(torch.tensor([1.0, 2.0**20, 1.0]), torch.tensor([1.0, 0.0, 1.0]), torch.ones(3))
    assert found[1] < 1


def test_factors_are_bounded_powers_of_two() -> None:
    found = equalizing(torch.tensor([1.0, 1e-30, 3.0, 1.0]), torch.tensor([1.0, 1e30, 1.0, 1.0]), torch.zeros(4))
    assert found.max() == 2.0**LARGEST_EXPONENT
    assert torch.equal(torch.frexp(found).mantissa, torch.full((4,), 0.5))


def equalization(result: Quantized) -> AlgorithmReport:
    (step,) = result.decisions.algorithms
    return step


def gain(step: AlgorithmReport) -> float:
    assert step.before_db is not None
    assert step.after_db is not None
    return step.after_db - step.before_db


@pytest.mark.sampled(13)
@pytest.mark.parametrize(("kind", "decompose"), CASES)
def test_uneven_channels_gain(quantized: QuantizeExample, kind: str, decompose: bool) -> None:
    result = quantized(pair(kind), decompose=decompose, **EQUALIZED)
    step = equalization(result)
    assert step.kept
    assert gain(step) > 20
    assert {layer.layer.name: layer.scaled_by for layer in result.layers} == {"first": None, "second": "first"}
    require_equal_in_float(result)


@pytest.mark.sampled(13)
@pytest.mark.parametrize("kind", ["linear", "conv2d", "flattened"])
@pytest.mark.parametrize("function", FUNCTIONS)
def test_functions_between_change_nothing(quantized: QuantizeExample, kind: str, function: str) -> None:
    result = quantized(pair(kind, function), decompose=True, **EQUALIZED)
    assert gain(equalization(result)) > 20
    require_equal_in_float(result)


def test_each_pair_of_a_chain_is_equalized(quantized: QuantizeExample) -> None:
    result = quantized(chain(), **EQUALIZED)
    assert {layer.scaled_by for layer in result.layers} == {None, "first", "second"}
    assert gain(equalization(result)) > 20
    require_equal_in_float(result)


def require_equal_in_float(result: Quantized) -> None:
    """Require that the float program with the factors in its weights has the same outputs, bit for bit."""
    source = result.source
    assert isinstance(source, ProgramSource)
    layers = {layer.layer.name: layer for layer in result.layers}
    scales = {name: layer.pre_quant_scale for name, layer in layers.items()}
    factors = absorbed_factors(scales, {n: layer.scaled_by for n, layer in layers.items()}, source.layers)
    assert factors
    tensors = {n: t for layer in source.layers if layer.name in factors for n, t in _scaled(layer, factors).items()}
    for layer in layers.values():
        if layer.pre_quant_scale is not None:
            weight = tensors.get(str(layer.layer.weight_name), layer.layer.weight)
            transposed = layer.layer.kind in TRANSPOSED
            divisor = beside_weight(layer.pre_quant_scale, weight.shape, transposed=transposed)
            tensors[str(layer.layer.weight_name)] = weight / divisor
    module = source.program.module(check_guards=False)
    samples = torch.randn(32, *source.inputs[0].shape[1:])  # type: ignore[arg-type]
    expected = module(samples)
    assert not torch.equal(tensors["first.weight"], source.tensors["first.weight"])
    with torch.no_grad():
        for name, tensor in tensors.items():
            module.get_parameter(name).copy_(tensor)
    assert torch.equal(module(samples), expected)


def _scaled(layer: object, factors: dict[str, Tensor]) -> dict[str, Tensor]:
    return float_tensors(layer, factors[layer.name])  # type: ignore[arg-type, attr-defined]


def kept_scales(result: Quantized) -> list[object]:
    return [layer.scaled_by for layer in result.layers if layer.scaled_by is not None]


def test_even_channels_stay_as_they_are(quantized: QuantizeExample) -> None:
    network = nn.Sequential(nn.Linear(6, CHANNELS), nn.ReLU(), nn.Linear(CHANNELS, 4))
    even = example(network, [6])
    plain, tried = quantized(even), quantized(even, **EQUALIZED)
    assert not equalization(tried).kept
    assert {n: t.tolist() for n, t in tried.tensors.items()} == {n: t.tolist() for n, t in plain.tensors.items()}


def tied(what: str) -> Example:
    """Return a pair that shares a tensor with a later layer."""
    torch.manual_seed(0)
    first, second, third = nn.Linear(CHANNELS, CHANNELS), nn.Linear(CHANNELS, CHANNELS), nn.Linear(CHANNELS, CHANNELS)
    spread(first, second, SPREAD)
    if what == "bias":
        third.bias = first.bias
    else:
        third.weight = {"first": first, "second": second}[what].weight
    return example(nn.Sequential(first, nn.ReLU(), second, nn.Sigmoid(), third), [CHANNELS])


@pytest.mark.parametrize(
    "recipe",
    [
        {"weights": {"granularity": "per_tensor"}},
        {"weights": {"granularity": "per_channel", "axis": 1}},
        {"overrides": [{"names": ["second"], "activations": None}]},
    ],
    ids=["one scale", "another axis", "float input"],
)
def test_without_a_place_for_the_factors_nothing_changes(quantized: QuantizeExample, recipe: dict[str, object]) -> None:
    result = quantized(pair("linear"), **EQUALIZED, **recipe)
    assert equalization(result).layers == 0
    assert kept_scales(result) == []


def test_groups_of_weights_absorb_factors_too(quantized: QuantizeExample) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(32, CHANNELS * 4), nn.ReLU(), nn.Linear(CHANNELS * 4, 4))
    spread(network[0], network[2], SPREAD.repeat(4))
    weights = {"granularity": "per_group", "group_size": 16}
    result = quantized(example(network, [32]), weights=weights, **EQUALIZED)
    assert gain(equalization(result)) > 20


@pytest.mark.parametrize("what", ["first", "second", "bias"])
def test_what_is_tied_stays_tied(quantized: QuantizeExample, what: str) -> None:
    assert equalization(quantized(tied(what), **EQUALIZED)).layers == 0


@pytest.mark.parametrize("exclude", [[], ["first"]], ids=["quantized", "in float"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_dtypes_are_left_alone(quantized: QuantizeExample, dtype: torch.dtype, exclude: list[str]) -> None:
    made = pair("linear")
    inputs = {name: tensor.to(dtype) for name, tensor in made.dataset.items()}
    changed = replace(made, module=made.module.to(dtype), inputs=(made.inputs[0].to(dtype),), dataset=inputs)
    assert equalization(quantized(changed, exclude=exclude, **EQUALIZED)).layers == 0


def test_a_channel_whose_weights_would_round_keeps_its_scale(quantized: QuantizeExample) -> None:
    made = pair("linear")
    with torch.no_grad():
        made.module.get_parameter("first.weight")[4, 0] = 1e-37  # its channel is scaled down
    result = quantized(made, **EQUALIZED)
    (scale,) = [layer.pre_quant_scale for layer in result.layers if layer.pre_quant_scale is not None]
    assert scale[4] == 1
    assert bool((scale[5:] != 1).any())
    require_equal_in_float(result)


def test_types_are_those_of_the_second_layer(quantized: QuantizeExample) -> None:
    of_convolutions = {"algorithms": [{"kind": "equalization", "layer_types": ["Conv2d"]}]}
    assert kept_scales(quantized(pair("linear"), **of_convolutions)) == []
    assert kept_scales(quantized(pair("flattened"), **of_convolutions)) == []


def test_the_float_model_stays_as_it_is(quantized: QuantizeExample, opened: OpenExample) -> None:
    before = {name: tensor.clone() for name, tensor in opened(pair("conv2d")).tensors.items()}
    after = quantized(pair("conv2d"), **EQUALIZED).source.tensors
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
