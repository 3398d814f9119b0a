"""A target is met if the bound of the search holds, and what evaluates the result reaches it too."""

import pytest

from zeropoint.schema.decisions import TargetReport
from zeropoint.schema.report import Summary
from zeropoint.schema.target import AccuracyTarget
from zeropoint.validation.report import judged

ASKED = 44.0


def summary(db: float | None, *, exact: bool = False) -> Summary:
    return Summary(
        sqnr_db=db,
        exact=exact,
        original_bytes=4,
        quantized_bytes=1,
        compression_ratio=4.0,
        dead_bytes=0,
        layers_quantized=1,
        layers_skipped=0,
    )


def report(bound: float | None) -> TargetReport:
    met = bound is not None and bound >= ASKED
    return TargetReport(
        asked=AccuracyTarget(min_sqnr_db=ASKED),
        met=met,
        value=bound,
        bound=bound,
        layers_in_float=0,
        macs_in_float=0.0,
        detail="said by the search",
    )


@pytest.mark.parametrize("bound", [None, 20.0, 43.99, 44.0, 60.0])
@pytest.mark.parametrize(("db", "exact"), [(20.0, False), (43.99, False), (44.0, False), (60.0, False), (None, True)])
def test_samples_that_evaluate_never_make_a_target_met_whose_bound_is_not(
    bound: float | None, db: float | None, exact: bool
) -> None:
    found = judged(report(bound), summary(db, exact=exact))
    assert found is not None
    enough = bound is not None and bound >= ASKED
    reached = exact or (db is not None and db >= ASKED)
    assert found.met == (enough and reached)
    assert (found.value, found.bound) == (db, bound)
    assert ("not on the evaluation samples" in found.detail) == (enough and not reached)
