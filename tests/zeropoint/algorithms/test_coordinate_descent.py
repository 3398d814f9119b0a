"""Coordinate descent never makes the error larger, keeps its bounds, and lets columns compensate for each other."""

import pytest
import torch
from torch import Tensor

from zeropoint.algorithms.coordinate_descent import descend

ROWS = 5


def covariance_of(columns: int, seed: int) -> Tensor:
    torch.manual_seed(seed)
    mixed = torch.randn(columns, columns)
    return mixed @ mixed.T + 0.01 * torch.eye(columns)


def error(values: Tensor, exact: Tensor, covariance: Tensor) -> Tensor:
    """(q − w) · C · (q − w)ᵀ of each row."""
    apart = (values - exact).double()
    return (apart * (covariance.double() @ apart)).sum(0)


def free(_: Tensor, __: int, ___: Tensor) -> None:
    """No bound."""


@pytest.mark.parametrize("columns", [1, 2, 7, 64])
@pytest.mark.parametrize("seed", range(3))
def test_no_row_gets_worse_from_any_start(columns: int, seed: int) -> None:
    covariance = covariance_of(columns, seed)
    exact = torch.randn(columns, ROWS) * 40
    for start in (exact.round(), torch.zeros_like(exact), (exact / 2).round()):
        values = start.clone()
        descend(values, exact, covariance, 0, free)
        assert bool((error(values, exact, covariance) <= error(start, exact, covariance) * (1 + 1e-5) + 1e-3).all())
        assert torch.equal(values, values.round())


def test_a_column_compensates_for_another_that_is_bounded() -> None:
    covariance, exact = torch.tensor([[1.0, 0.9], [0.9, 1.0]]), torch.full((2, 1), 50.0)

    def bound(wanted: Tensor, column: int, _: Tensor) -> None:
        if column == 0:
            wanted.clamp_(max=40)

    values = torch.tensor([[40.0], [50.0]])
    descend(values, exact, covariance, 0, bound)
    assert values.flatten().tolist() == [40.0, 59.0]


def test_only_its_columns_move_and_none_beyond_the_grid() -> None:
    covariance, exact = covariance_of(4, 0), torch.full((9, ROWS), 1000.0)
    values = torch.zeros_like(exact)
    descend(values, exact, covariance, 3, free)
    assert values.abs().max() <= 127
    assert not bool(values[:3].any())
    assert not bool(values[7:].any())
    assert bool(values[3:7].any())


def test_columns_that_vary_alone_are_rounded_to_nearest() -> None:
    exact = torch.randn(6, ROWS) * 20
    values = torch.zeros_like(exact)
    descend(values, exact, torch.diag(torch.tensor([1.0, 1e-30, 1e-12, 3.0, 1e6, 1.0])), 0, free)
    assert torch.equal(values, exact.round())
