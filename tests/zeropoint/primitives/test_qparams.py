"""The affine grid: properties over random tensors, and agreement with torch's own operators."""

import pytest
import torch
import torch.ao.quantization.fx._decomposed  # registers quantized_decomposed
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from zeropoint.primitives.qparams import (
    QINT8,
    QUINT8,
    QParams,
    asymmetric_qparams,
    dequantize,
    quantize,
    symmetric_qparams,
)

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
    qparams = asymmetric_qparams(values.min(), values.max(), QUINT8)
    moved = (values - dequantize(quantize(values, qparams), qparams)).abs()
    assert bool((moved <= qparams.scale * 1.001).all())


@given(st.integers(0, 2**31), SPREADS, SHIFTS)
def test_symmetric_per_channel_round_trip_moves_a_weight_by_half_a_step_at_most(
    seed: int, spread: float, shift: float
) -> None:
    values = tensor(seed, spread, shift)
    qparams = symmetric_qparams(values.amin(1), values.amax(1), QINT8, axis=0)
    moved = (values - dequantize(quantize(values, qparams), qparams)).abs()
    assert bool((moved <= qparams.scale[:, None] * 0.501).all())


@given(st.integers(0, 2**31), SPREADS, SHIFTS)
def test_zero_stays_zero(seed: int, spread: float, shift: float) -> None:
    values = tensor(seed, spread, shift)
    for qparams in (
        asymmetric_qparams(values.min(), values.max(), QUINT8),
        symmetric_qparams(values.min(), values.max(), QINT8),
    ):
        assert float(dequantize(quantize(torch.zeros(1), qparams), qparams)) == 0.0


@given(st.integers(0, 2**31), SPREADS)
def test_symmetric_grid_rounds_a_value_and_its_negative_alike(seed: int, spread: float) -> None:
    values = tensor(seed, spread, 0.0)
    qparams = symmetric_qparams(values.min(), values.max(), QINT8)
    assert torch.equal(quantize(values, qparams), -quantize(-values, qparams))
    assert int(quantize(values, qparams).min()) >= -127


@given(st.integers(0, 2**31), SHIFTS)
def test_per_channel_is_never_worse_than_per_tensor(seed: int, shift: float) -> None:
    values = tensor(seed, 1.0, shift) * torch.logspace(-3, 3, 6)[:, None]
    whole = symmetric_qparams(values.min(), values.max(), QINT8)
    channels = symmetric_qparams(values.amin(1), values.amax(1), QINT8, axis=0)
    assert _squared_error(values, channels) <= _squared_error(values, whole)


def _squared_error(values: Tensor, qparams: QParams) -> float:
    return float((values - dequantize(quantize(values, qparams), qparams)).square().sum())


@given(st.integers(0, 2**31), SPREADS, SHIFTS)
def test_per_tensor_agrees_with_torch_bit_for_bit(seed: int, spread: float, shift: float) -> None:
    values = tensor(seed, spread, shift)
    qparams = asymmetric_qparams(values.min(), values.max(), QUINT8)
    arguments = (float(qparams.scale), int(qparams.zero_point), 0, 255, torch.uint8)
    integers = ops.quantize_per_tensor(values, *arguments)
    assert torch.equal(quantize(values, qparams), integers)
    assert torch.equal(dequantize(integers, qparams), ops.dequantize_per_tensor(integers, *arguments))


@pytest.mark.parametrize("axis", [0, 1])
def test_per_channel_agrees_with_torch_bit_for_bit(axis: int) -> None:
    values = tensor(1, 3.0, 0.5)
    qparams = symmetric_qparams(values.amin(1 - axis), values.amax(1 - axis), QINT8, axis)
    arguments = (qparams.scale, qparams.zero_point, axis, -127, 127, torch.int8)
    integers = ops.quantize_per_channel(values, *arguments)
    assert torch.equal(quantize(values, qparams), integers)
    assert torch.equal(dequantize(integers, qparams), ops.dequantize_per_channel(integers, *arguments))


@pytest.mark.parametrize("value", [0.0, 5.0, -5.0, 1e-38, 3e38])
def test_a_constant_gets_a_valid_grid_that_keeps_it(value: float) -> None:
    values = torch.full((3,), value)
    for qparams in (
        asymmetric_qparams(values.min(), values.max(), QUINT8),
        symmetric_qparams(values.min(), values.max(), QINT8),
    ):
        assert bool(torch.isfinite(qparams.scale))
        assert float(qparams.scale) > 0
        kept = dequantize(quantize(values, qparams), qparams)
        assert torch.allclose(kept, values, rtol=1e-5, atol=2.0**-100)


def test_an_all_zero_channel_beside_others_gets_scale_one() -> None:
    qparams = symmetric_qparams(torch.tensor([0.0, -1.0]), torch.tensor([0.0, 2.0]), QINT8, axis=0)
    assert qparams.scale.tolist() == pytest.approx([1.0, 2.0 / 127])
