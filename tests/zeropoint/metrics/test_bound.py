"""Bounds: fresh samples fall below them as often as they say, whatever the spread of the samples."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from zeropoint.metrics.bound import UNKNOWN_DB, block_length, loss_margin, margins_db
from zeropoint.metrics.rows import Rows

Draw = Callable[[int, torch.Generator], Tensor]


def even(count: int, generator: torch.Generator) -> Tensor:
    return 1 + torch.rand(count, generator=generator, dtype=torch.float64)


def skewed(count: int, generator: torch.Generator) -> Tensor:
    """The noisiest of 32 rows has some four times the usual noise."""
    return (0.6 * torch.randn(count, generator=generator, dtype=torch.float64)).exp()


def in_blocks(count: int, generator: torch.Generator) -> Tensor:
    return skewed(count // 8 + 1, generator).repeat_interleave(8)[:count]


def db(noise: Tensor) -> float:
    return float(10 * (len(noise) / noise.sum()).log10())


def rows_of(noise: Tensor) -> Rows:
    return Rows([1.0] * len(noise), noise.tolist())


@pytest.mark.parametrize(("draw", "count", "most"), [(even, 32, 0.06), (skewed, 32, 0.07), (in_blocks, 64, 0.12)])
def test_fresh_samples_are_seldom_below_the_bound(draw: Draw, count: int, most: float) -> None:
    generator = torch.Generator().manual_seed(1)
    missed = 0
    for _ in range(300):
        noise = draw(count, generator)
        [margin] = margins_db([rows_of(noise)], count)
        missed += db(draw(count, generator)) < db(noise) - margin
    assert missed / 300 <= most


def test_a_choice_among_several_spends_nothing() -> None:
    """The best of ten that are equally good, each with a spread of its own: luck alone decides."""
    generator = torch.Generator().manual_seed(2)
    missed = 0
    for _ in range(200):
        measured = [skewed(32, generator) for _ in range(10)]
        margins = margins_db([rows_of(noise) for noise in measured], 32)
        best = max(range(10), key=lambda at: db(measured[at]) - margins[at])
        missed += db(skewed(32, generator)) < db(measured[best]) - margins[best]
    assert missed / 200 <= 0.09


def test_more_fresh_samples_and_more_rows_need_less_margin() -> None:
    generator = torch.Generator().manual_seed(3)
    few, many = skewed(16, generator), skewed(512, generator)
    [small], [large] = (margins_db([rows_of(few)], fresh) for fresh in (8, 1024))
    assert large < small
    assert margins_db([rows_of(many)], 512) < margins_db([rows_of(few)], 16)


def test_rows_without_spread_need_hardly_a_margin_and_too_few_rows_the_usual_one() -> None:
    assert margins_db([rows_of(torch.ones(32))], 32)[0] < 0.2
    assert margins_db([rows_of(torch.ones(2))], 32) == [UNKNOWN_DB]
    assert margins_db([], 32) == []
    assert margins_db([rows_of(torch.ones(32))], 32, least_length=16) == [UNKNOWN_DB]


@pytest.mark.parametrize(("length", "least", "most"), [(1, 1, 2), (8, 4, 12)])
def test_the_length_of_blocks_is_found(length: int, least: int, most: int) -> None:
    generator = torch.Generator().manual_seed(4)
    noise = skewed(256 // length, generator).repeat_interleave(length)
    assert least <= block_length(noise, torch.ones(256)) <= most


@pytest.mark.sampled(3)
@pytest.mark.parametrize(("share", "count"), [(0.0, 300), (0.02, 500), (0.2, 100)])
def test_losses_of_fresh_rows_are_seldom_above_their_bound(share: float, count: int) -> None:
    generator = torch.Generator().manual_seed(5)

    def losses() -> Tensor:
        return (torch.rand(count, generator=generator) < share).double()

    missed = 0
    for _ in range(200):
        seen = losses()
        missed += float(losses().mean()) > float(seen.mean()) + loss_margin(seen, count)
    assert missed / 200 <= 0.08


def test_rows_without_a_loss_leave_the_rule_of_three() -> None:
    assert 1.5 / 300 <= loss_margin(torch.zeros(300), 300) <= 4 / 300
