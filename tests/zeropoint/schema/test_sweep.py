"""The Pareto front of a table."""

import pytest

from zeropoint.schema.recipe import Recipe
from zeropoint.schema.sweep import SweepError, SweepRow, pareto

FAILED = SweepError(code="nothing_to_quantize", title="", detail="", remedy="")


def rows(*measured: tuple[float | None, int, float | None]) -> list[SweepRow]:
    return [
        SweepRow(position=i, name="-", preset=None, recipe=Recipe(), sqnr_db=db, bytes=size, latency_ms=latency)
        for i, (db, size, latency) in enumerate(measured)
    ]


@pytest.mark.parametrize(
    ("measured", "front"),
    [
        ([(30, 10, None), (20, 5, None)], [0, 1]),
        ([(30, 10, None), (20, 10, None), (30, 11, None)], [0]),
        ([(30, 10, None), (30, 10, None)], [0, 1]),
        ([(30, 10, 2.0), (20, 10, 1.0), (20, 10, 2.0)], [0, 1]),
        ([(None, 10, None), (-5, 10, None), (-9, 9, None)], [1, 2]),
    ],
    ids=["both", "beaten", "equal", "latency", "not a number"],
)
def test_rows_that_none_beats_are_the_front(
    measured: list[tuple[float | None, int, float | None]], front: list[int]
) -> None:
    assert pareto(rows(*measured)) == front


def test_exact_is_better_than_any_number() -> None:
    table = rows((100, 10, None), (None, 10, None))
    table[1] = table[1].model_copy(update={"exact": True})
    assert pareto(table) == [1]


def test_rows_without_a_result_are_not_on_the_front() -> None:
    table = rows((30, 10, None), (None, 0, None))
    table[1] = SweepRow(position=1, name="-", preset=None, recipe=Recipe(), error=FAILED)
    assert pareto(table) == [0]
