"""Every dtype, scheme and granularity: stored and read back bit for bit, and no coarser than its steps."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from zeropoint.layers.weights import (
    WeightNames,
    concatenate_rows,
    dequantize_weight,
    from_tensors,
    quantize_weight,
    to_tensors,
    weight_blocks,
)
from zeropoint.primitives.packing import pack_int4, unpack_int4
from zeropoint.primitives.qparams import step_size
from zeropoint.schema.recipe import CASTS, WeightSettings

SETTINGS = [
    {"dtype": "qint8"},
    {"dtype": "qint8", "scheme": "asymmetric"},
    {"dtype": "qint8", "granularity": "per_tensor"},
    {"dtype": "qint8", "axis": 1},
    {"dtype": "qint8", "granularity": "per_group", "group_size": 4},
    {"dtype": "quint8"},
    {"dtype": "quint8", "scheme": "asymmetric", "axis": 1},
    {"dtype": "int4", "group_size": 4},
    {"dtype": "int4", "group_size": 4, "scheme": "symmetric"},
    {"dtype": "float8_e4m3"},
    {"dtype": "float8_e4m3", "granularity": "per_tensor"},
    {"dtype": "float16"},
    {"dtype": "bfloat16"},
]


@pytest.mark.sampled(4)
@pytest.mark.parametrize("body", SETTINGS, ids=str)
@given(seed=st.integers(0, 2**31), spread=st.floats(1e-6, 1e6), shift=st.floats(-3, 3))
def test_a_weight_moves_by_one_step_at_most(body: dict[str, object], seed: int, spread: float, shift: float) -> None:
    settings = WeightSettings.model_validate(body)
    weight = (torch.randn(6, 8, generator=torch.Generator().manual_seed(seed)) + shift) * spread
    numbers, qparams = quantize_weight(weight, settings, settings.axis or 0)
    moved = (weight - dequantize_weight(numbers, qparams)).abs()
    if qparams is None:
        bound = weight.abs() * torch.finfo(numbers.dtype).eps + torch.finfo(numbers.dtype).smallest_normal
        bound = bound.where(weight.abs() < torch.finfo(numbers.dtype).max, torch.inf)
    else:
        bound = step_size(numbers, qparams) * (0.501 if settings.scheme == "symmetric" else 1.001)
    assert bool((moved <= bound).all())


@pytest.mark.parametrize("body", SETTINGS, ids=str)
def test_what_is_stored_comes_back_bit_for_bit(body: dict[str, object]) -> None:
    settings = WeightSettings.model_validate(body)
    weight = torch.randn(6, 8, generator=torch.Generator().manual_seed(0))
    numbers, qparams = quantize_weight(weight, settings, settings.axis or 0)
    stored = to_tensors(WeightNames.usual("w"), settings, numbers, qparams)
    axis = qparams.axis if qparams is not None else None
    again, grid = from_tensors(WeightNames.usual("w"), settings, axis, stored)
    assert again.dtype == numbers.dtype
    assert torch.equal(dequantize_weight(again, grid), dequantize_weight(numbers, qparams))
    assert set(stored) == {"w"} | (set() if settings.dtype in CASTS else {"w_scale"}) | (
        {"w_zero_point"} if settings.scheme == "asymmetric" else set()
    )


def test_smaller_groups_are_never_worse() -> None:
    weight = torch.randn(16, 64, generator=torch.Generator().manual_seed(0)) * torch.logspace(-2, 2, 64)
    errors = []
    for size in (64, 16, 4):
        settings = WeightSettings.model_validate({"dtype": "int4", "scheme": "symmetric", "group_size": size})
        errors.append(float((weight - dequantize_weight(*quantize_weight(weight, settings, 0))).square().sum()))
    assert errors == sorted(errors, reverse=True)


@given(st.integers(0, 2**31))
def test_packing_keeps_every_number(seed: int) -> None:
    numbers = torch.randint(-8, 8, (3, 6), dtype=torch.int8, generator=torch.Generator().manual_seed(seed))
    packed = pack_int4(numbers)
    assert packed.shape == (3, 3)
    assert torch.equal(unpack_int4(packed), numbers)


def test_transposed_convolutions_have_their_scales_along_the_outputs() -> None:
    weight = torch.randn(4, 6, 3, 3)
    _, qparams = quantize_weight(weight, WeightSettings(), axis=1)
    assert qparams is not None
    assert qparams.scale.shape == (6,)


@pytest.mark.parametrize("body", SETTINGS, ids=str)
def test_a_block_has_the_qparams_of_its_rows(body: dict[str, object]) -> None:
    settings = WeightSettings.model_validate(body)
    weight = torch.randn(7, 8, generator=torch.Generator().manual_seed(0))
    quantized, qparams = quantize_weight(weight, settings, settings.axis or 0)
    blocks = list(weight_blocks(torch.split(weight, 3), qparams))
    assert [block.rows for block in blocks] == [slice(0, 3), slice(3, 6), slice(6, 7)]
    for block in blocks:
        expected = dequantize_weight(quantized, qparams)[block.rows]
        assert torch.equal(dequantize_weight(quantized[block.rows], block.qparams), expected)
    if qparams is not None:
        whole = concatenate_rows([block.qparams for block in blocks if block.qparams is not None])
        assert torch.equal(whole.scale, qparams.scale)
        assert torch.equal(whole.zero_point, qparams.zero_point)
