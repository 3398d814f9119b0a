"""The affine grid: properties over random tensors, and agreement with torch's own operators."""

import pytest
import torch
import torch.ao.quantization.fx._decomposed  # registers quantized_decomposed
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from zeropoint.primitives.qparams import QINT8, QUINT8, Affine, asymmetric, dequantize, quantize, symmetric

ops = torch.ops.quantized_decomposed
SPREADS = st.floats(min_value=1e-20, max_value=1e20)
SHIFTS = st.floats(min_value=-5, max_value=5)


def tensor(seed: int, spread: float, shift: float) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(6, 5, generator=generator) + shift) * spread


@given(st.integers(0, 2**31), SPREADS, SHIFTS)
def test_asymmetric_round_trip_moves_a_value_by_one_step_at_most(seed: int, spread: float, shift: float) -> None:
    """Half a step for rounding the value; at the ends of the range, half a step more for rounding the zero point."""
    values = tensor(seed, spread, shift)
    affine = asymmetric(values.min(), values.max(), QUINT8)
    moved = (values - dequantize(quantize(values, affine), affine)).abs()
    assert bool((moved <= affine.scale * 1.001).all())


@given(st.integers(0, 2**31), SPREADS, SHIFTS)
def test_symmetric_per_channel_round_trip_moves_a_weight_by_half_a_step_at_most(
    seed: int, spread: float, shift: float
) -> None:
    values = tensor(seed, spread, shift)
    affine = symmetric(values.amin(1), values.amax(1), QINT8, axis=0)
    moved = (values - dequantize(quantize(values, affine), affine)).abs()
    assert bool((moved <= affine.scale[:, None] * 0.501).all())


@given(st.integers(0, 2**31), SPREADS, SHIFTS)
def test_zero_stays_zero(seed: int, spread: float, shift: float) -> None:
    values = tensor(seed, spread, shift)
    for affine in (asymmetric(values.min(), values.max(), QUINT8), symmetric(values.min(), values.max(), QINT8)):
        assert float(dequantize(quantize(torch.zeros(1), affine), affine)) == 0.0


@given(st.integers(0, 2**31), SPREADS)
def test_symmetric_grid_rounds_a_value_and_its_negative_alike(seed: int, spread: float) -> None:
    values = tensor(seed, spread, 0.0)
    affine = symmetric(values.min(), values.max(), QINT8)
    assert torch.equal(quantize(values, affine), -quantize(-values, affine))
    assert int(quantize(values, affine).min()) >= -127


@given(st.integers(0, 2**31), SHIFTS)
def test_per_channel_is_never_worse_than_per_tensor(seed: int, shift: float) -> None:
    values = tensor(seed, 1.0, shift) * torch.logspace(-3, 3, 6)[:, None]
    whole = symmetric(values.min(), values.max(), QINT8)
    channels = symmetric(values.amin(1), values.amax(1), QINT8, axis=0)
    assert _squared_error(values, channels) <= _squared_error(values, whole)


def _squared_error(values: Tensor, affine: Affine) -> float:
    return float((values - dequantize(quantize(values, affine), affine)).square().sum())


@given(st.integers(0, 2**31), SPREADS, SHIFTS)
def test_per_tensor_agrees_with_torch_bit_for_bit(seed: int, spread: float, shift: float) -> None:
    values = tensor(seed, spread, shift)
    affine = asymmetric(values.min(), values.max(), QUINT8)
    arguments = (float(affine.scale), int(affine.zero_point), 0, 255, torch.uint8)
    integers = ops.quantize_per_tensor(values, *arguments)
    assert torch.equal(quantize(values, affine), integers)
    assert torch.equal(dequantize(integers, affine), ops.dequantize_per_tensor(integers, *arguments))


@pytest.mark.parametrize("axis", [0, 1])
def test_per_channel_agrees_with_torch_bit_for_bit(axis: int) -> None:
    values = tensor(1, 3.0, 0.5)
    affine = symmetric(values.amin(1 - axis), values.amax(1 - axis), QINT8, axis)
    arguments = (affine.scale, affine.zero_point, axis, -127, 127, torch.int8)
    integers = ops.quantize_per_channel(values, *arguments)
    assert torch.equal(quantize(values, affine), integers)
    assert torch.equal(dequantize(integers, affine), ops.dequantize_per_channel(integers, *arguments))


@pytest.mark.parametrize("value", [0.0, 5.0, -5.0, 1e-38, 3e38])
def test_a_constant_gets_a_valid_grid_that_keeps_it(value: float) -> None:
    values = torch.full((3,), value)
    for affine in (asymmetric(values.min(), values.max(), QUINT8), symmetric(values.min(), values.max(), QINT8)):
        assert bool(torch.isfinite(affine.scale))
        assert float(affine.scale) > 0
        kept = dequantize(quantize(values, affine), affine)
        assert torch.allclose(kept, values, rtol=1e-5, atol=2.0**-100)


def test_an_all_zero_channel_beside_others_gets_scale_one() -> None:
    affine = symmetric(torch.tensor([0.0, -1.0]), torch.tensor([0.0, 2.0]), QINT8, axis=0)
    assert affine.scale.tolist() == pytest.approx([1.0, 2.0 / 127])
