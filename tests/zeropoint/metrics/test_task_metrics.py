"""Metrics: against what can be counted by hand, and what does not fit is named."""

import math

import pytest
import torch
from torch import Tensor

from zeropoint.data.batches import Truth
from zeropoint.errors import InvalidSamples
from zeropoint.metrics.task_metrics import Metrics, first_floating
from zeropoint.schema.report import MetricReport
from zeropoint.schema.target import MetricName

FLOAT = torch.tensor([[9.0, 1, 0], [0, 9, 1], [1, 0, 9], [9, 1, 0]])
QUANTIZED = torch.tensor([[9.0, 1, 0], [9, 1, 0], [1, 0, 9], [0, 9, 1]])
NOTHING = Truth()


def reports(expected: Tensor, found: Tensor, truth: Truth = NOTHING) -> dict[MetricName, MetricReport]:
    metrics = Metrics()
    for rows in (slice(0, 1), slice(1, None)):  # one number for any count of batches
        parts = (None if t is None else t[rows] for t in (truth.labels, truth.references))
        metrics.add(expected[rows], found[rows], Truth(*parts))
    return {report.name: report for report in metrics.reports()}


def test_without_truth_there_is_agreement_alone() -> None:
    found = reports(FLOAT, QUANTIZED)
    assert list(found) == ["agreement"]
    assert (found["agreement"].float_value, found["agreement"].value, found["agreement"].drop) == (1.0, 0.5, 0.5)


def test_agreement_looks_at_every_position() -> None:
    expected = FLOAT.reshape(2, 2, 3)
    assert reports(expected, QUANTIZED.reshape(2, 2, 3))["agreement"].value == 0.5


def test_agreement_needs_two_classes() -> None:
    assert reports(torch.randn(4, 1), torch.randn(4, 1)) == {}


def test_top1_counts_right_classes_of_both_models() -> None:
    found = reports(FLOAT, QUANTIZED, Truth(torch.tensor([0, 1, 0, 0])))
    assert (found["top1"].float_value, found["top1"].value, found["top1"].drop) == (0.75, 0.25, 0.5)
    assert found["top5"].value == 1.0  # of three classes


def test_any_of_several_labels_is_right_and_minus_one_is_none() -> None:
    labels = torch.tensor([[2, 0], [0, -1], [-1, -1], [1, 0]])
    found = reports(FLOAT, QUANTIZED, Truth(labels))
    assert (found["top1"].float_value, found["top1"].value) == (0.5, 0.75)


def test_top5_looks_at_five() -> None:
    scores = torch.arange(8.0).flip(0).expand(2, 8)
    found = reports(scores, scores.flip(1), Truth(torch.tensor([4, 5])))
    assert (found["top5"].float_value, found["top5"].value) == (0.5, 1.0)


def test_cosine_is_the_mean_over_samples() -> None:
    references = torch.eye(2).reshape(2, 1, 2)
    quantized = torch.tensor([[[1.0, 1.0]], [[0.0, 3.0]]])
    found = reports(5 * references, quantized, Truth(references=references))["cosine"]
    assert found.float_value == pytest.approx(1)
    assert found.value == pytest.approx((1 + math.sqrt(0.5)) / 2)


def test_outputs_that_are_not_finite_have_no_cosine() -> None:
    references = torch.ones(2, 1)
    found = reports(references, torch.full((2, 1), math.nan), Truth(references=references))["cosine"]
    assert (found.float_value, found.value, found.drop) == (1.0, None, None)


@pytest.mark.parametrize(
    ("truth", "words"),
    [
        (Truth(torch.tensor([0, 3, 0, 0])), "it holds 3, and the first output has classes 0 to 2"),
        (Truth(torch.tensor([0, -2, 0, 0])), "it holds -2"),
        (Truth(torch.zeros(2, dtype=torch.int64)), "not one row of classes for each of 2 samples"),
        (Truth(references=torch.zeros(4, 2)), r"it is \[4, 2\] where the first output is \[4, 3\]"),
    ],
    ids=["class", "negative", "rows", "shape"],
)
def test_what_does_not_fit_the_output_is_refused(truth: Truth, words: str) -> None:
    with pytest.raises(InvalidSamples, match=words) as refused:
        Metrics().add(FLOAT, QUANTIZED, truth)
    assert refused.value.code == "dataset_does_not_fit"


def test_labels_need_classes() -> None:
    with pytest.raises(InvalidSamples, match="no classes along its last dimension"):
        Metrics().add(torch.zeros(4, 1), torch.zeros(4, 1), Truth(torch.zeros(4, dtype=torch.int64)))


def test_the_first_floating_output_is_looked_at() -> None:
    assert first_floating([1, torch.zeros(2, dtype=torch.int64), FLOAT, QUANTIZED]) is FLOAT
    assert first_floating([torch.zeros(2, dtype=torch.int64)]) is None
