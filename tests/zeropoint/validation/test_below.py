"""A further artifact is too far below the first one only if counts can tell."""

import pytest
import torch

from zeropoint.schema.recipe import ValidationSettings
from zeropoint.validation.below import agreement_below
from zeropoint.validation.checks import sqnr_check
from zeropoint.validation.outputs import Outputs


@pytest.mark.parametrize(
    ("share", "first", "count", "below"),
    [
        (22 / 24, 1.0, 24, False),  # two labels
        (18 / 24, 1.0, 24, True),
        (0.92, 1.0, 64, False),
        (0.92, 1.0, 5000, True),
        (0.94, 1.0, 5000, True),
        (0.96, 1.0, 5000, False),
        (0.84, 0.9, 192, False),
        (0.84, 0.9, 20_000, True),
        (0.0, 0.9, 8, True),
        (0.0, 0.0, 8, False),
    ],
)
def test_labels_that_differ_are_told_from_what_counts_allow(
    share: float, first: float, count: int, below: bool
) -> None:
    assert agreement_below(share, first, count) is below


@pytest.mark.parametrize(("labels", "differing", "passes"), [(24, 2, True), (24, 8, False), (4000, 400, False)])
def test_two_labels_of_few_don_t_fail_a_job(labels: int, differing: int, passes: bool) -> None:
    reference = [torch.randn(labels, 3), torch.arange(labels)]
    first, further = Outputs(), Outputs()
    first.add(reference, {0: reference[0] * 1.01, 1: reference[1]})
    further.add(reference, {0: reference[0] * 1.01, 1: torch.where(reference[1] < differing, -1, reference[1])})
    check = sqnr_check(first, {"model.onnx": further}, True, ValidationSettings())
    assert check.passed is passes
    assert ("too far below" in check.detail) is not passes
