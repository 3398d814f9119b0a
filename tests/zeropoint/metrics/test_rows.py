"""Rows: the noise of each sample, whatever the shape of the outputs, which adds up to the whole."""

import pytest
import torch
from torch import Tensor

from zeropoint.data.padding import visible
from zeropoint.metrics.rows import Rows, can_split, pooled_rows
from zeropoint.metrics.sqnr import Noise, pooled


def rows_of(expected: list[Tensor], outputs: list[Tensor], samples: int, mask: Tensor | None = None) -> list[Rows]:
    found = [Rows() for _ in expected]
    split = can_split(expected, samples)
    for rows, reference, value in zip(found, expected, outputs, strict=True):
        rows.add(reference, value, samples if split else None, mask)
    return found


@pytest.mark.parametrize("shapes", [[(6, 3)], [(6, 2, 4)], [(6, 2, 4, 4), (6, 10)], [(6,)]])
def test_rows_add_up_to_the_noise(shapes: list[tuple[int, ...]]) -> None:
    torch.manual_seed(0)
    expected, outputs = [torch.randn(shape) for shape in shapes], [torch.randn(shape) for shape in shapes]
    rows, noises = pooled_rows(rows_of(expected, outputs, 6)), [Noise() for _ in shapes]
    for noise, reference, value in zip(noises, expected, outputs, strict=True):
        noise.add(reference, value)
    assert len(rows) == 6
    assert sum(rows.signal) == pytest.approx(pooled(noises).signal)
    assert sum(rows.noise) == pytest.approx(pooled(noises).noise)
    third = sum(float((a[2] - b[2]).double().square().sum()) for a, b in zip(expected, outputs, strict=True))
    assert rows.noise[2] == pytest.approx(third, rel=1e-5)


@pytest.mark.parametrize("shapes", [[()], [(4, 6, 2)], [(6, 3), (1, 5)]])
def test_outputs_that_count_no_samples_are_one_row(shapes: list[tuple[int, ...]]) -> None:
    tensors = [torch.ones(shape) for shape in shapes]
    rows = pooled_rows(rows_of(tensors, [2 * tensor for tensor in tensors], 6))
    assert rows.noise == [sum(tensor.numel() for tensor in tensors)]


def test_an_output_that_is_passed_through_counts_for_nothing() -> None:
    same, other = torch.ones(4, 3), torch.ones(4, 2)
    rows = pooled_rows(rows_of([same, other], [same, 2 * other], 4))
    assert (rows.signal, rows.noise) == ([2.0] * 4, [2.0] * 4)
    assert pooled_rows(rows_of([same], [same], 4)).noise == [0.0] * 4


def test_masked_positions_are_in_no_row() -> None:
    mask = torch.tensor([[True, False], [True, True]])
    expected = torch.ones(2, 2, 3)
    [rows] = rows_of([expected], [torch.zeros(2, 2, 3)], 2, mask)
    assert rows.noise == [3.0, 6.0]
    assert sum(rows.noise) == visible(expected, mask).sum()
