"""A convolution is its weight times the patches of its input, whatever its shape, padding, dilation and groups."""

from typing import Any

import pytest
import torch
from torch import nn

from zeropoint.algorithms.patches import patches

SIZES = {1: (29,), 2: (13, 9), 3: (7, 6, 5)}
CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "padded": {"padding": 2},
    "strided": {"stride": 2, "padding": 1},
    "dilated": {"dilation": 2, "padding": 1},
    "grouped": {"groups": 2},
    "depthwise": {"groups": 4, "stride": 2},
    "same": {"padding": "same", "dilation": 2},
    "valid": {"padding": "valid"},
    "reflected": {"padding": 1, "padding_mode": "reflect"},
    "around": {"padding": 2, "padding_mode": "circular"},
    "replicated": {"padding": "same", "padding_mode": "replicate"},
    "one tap": {"kernel_size": 1, "stride": 2},
}
KINDS: dict[int, type[nn.Conv1d | nn.Conv2d | nn.Conv3d]] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


@pytest.mark.parametrize("dimensions", KINDS)
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("batched", [True, False])
def test_the_weight_times_the_patches_is_the_output(dimensions: int, case: str, batched: bool) -> None:
    torch.manual_seed(0)
    module = KINDS[dimensions](4, 8, **{"kernel_size": 3, "bias": False, **CASES[case]}).double()
    values = torch.randn(*([2] if batched else []), 4, *SIZES[dimensions], dtype=torch.float64)
    rows = patches(module, values, 10**6)
    weight = module.weight.reshape(module.groups, 8 // module.groups, -1)
    found = (rows @ weight.mT).transpose(0, 1).flatten(1)
    expected = module(values)
    expected = (expected if batched else expected[None]).movedim(1, -1).flatten(0, -2)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("dimensions", KINDS)
@pytest.mark.parametrize("most", [1, 7, 40])
def test_of_many_positions_about_so_many_are_taken_from_all_samples(dimensions: int, most: int) -> None:
    module = KINDS[dimensions](4, 8, 3)
    values = torch.arange(3.0).reshape(3, 1, *[1] * dimensions).expand(3, 4, *SIZES[dimensions])
    rows = patches(module, values, most)
    assert set(rows.flatten().tolist()) == {0.0, 1.0, 2.0}
    assert len(rows) == 1
    assert 3 <= rows.shape[1] <= max(most, 3) * 2**dimensions
