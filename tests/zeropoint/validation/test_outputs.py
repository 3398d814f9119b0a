"""Each output by itself: SQNR of floats, agreement of integers and bools, and no flattery by what passes through."""

import pytest
import torch
from torch import Tensor

from zeropoint.data.batches import ModelOutputs
from zeropoint.schema.recipe import ValidationSettings
from zeropoint.validation.checks import sqnr_check
from zeropoint.validation.outputs import Outputs

torch.manual_seed(0)
SIGNAL = torch.randn(10, 20)
SETTINGS = ValidationSettings()
NOISY = SIGNAL + 0.1 * torch.randn(10, 20)  # about 20 dB
FINE = SIGNAL + 0.001 * torch.randn(10, 20)  # about 60 dB


def compared(*pairs: tuple[Tensor, Tensor], names: tuple[str, ...] = ()) -> Outputs:
    outputs = Outputs()
    for rows in (slice(0, 4), slice(4, 10)):  # in two batches
        expected = ModelOutputs([reference[rows] for reference, _ in pairs], names)
        assert outputs.add(expected, {place: value[rows] for place, (_, value) in enumerate(pairs)})
    return outputs


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.complex64])
def test_floats_have_an_sqnr(dtype: torch.dtype) -> None:
    (report,) = compared((SIGNAL.to(dtype), NOISY.to(dtype))).reports()
    assert (report.dtype, report.agreement, report.exact) == (str(dtype).removeprefix("torch."), None, False)
    assert report.sqnr_db == pytest.approx(20, abs=1)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.int8, torch.uint8, torch.bool])
def test_integers_and_bools_have_an_agreement(dtype: torch.dtype) -> None:
    reference = (SIGNAL > 0).to(dtype)
    value = reference.clone()
    value[0, :5] = 1 - value[0, :5].to(torch.int64) if dtype != torch.bool else ~value[0, :5]
    outputs = compared((reference, value))
    (report,) = outputs.reports()
    assert (report.sqnr_db, report.exact) == (None, False)
    assert report.agreement == pytest.approx(0.975)
    assert not outputs.exact
    check = sqnr_check(outputs, {}, True, SETTINGS)
    assert check.passed
    assert "97.5 %" in check.detail
    assert "equal the float" not in check.detail


def test_only_equality_of_every_output_is_exact() -> None:
    labels = SIGNAL.argmax(-1)
    wrong = labels.clone()
    wrong[0] += 1
    assert compared((SIGNAL, SIGNAL), (labels, labels)).exact
    assert not compared((SIGNAL, SIGNAL), (labels, wrong)).exact
    assert not compared((SIGNAL, NOISY), (labels, labels)).exact
    assert not Outputs().exact


def test_an_output_that_passes_through_does_not_lift_the_number() -> None:
    alone = compared((SIGNAL, NOISY)).noise.db
    assert compared((SIGNAL, NOISY), (1000 * SIGNAL, 1000 * SIGNAL)).noise.db == alone
    assert compared((SIGNAL, SIGNAL)).noise.exact


def test_the_worst_output_is_known_by_name() -> None:
    outputs = compared((SIGNAL, FINE), (SIGNAL, NOISY), names=("scores", "boxes"))
    assert outputs.worst_db == pytest.approx(20, abs=1)
    assert {report.name: round(report.sqnr_db or 0, -1) for report in outputs.reports()} == {"scores": 60, "boxes": 20}


@pytest.mark.parametrize("other", [SIGNAL[:, :3], SIGNAL.double(), None], ids=["shape", "dtype", "missing"])
def test_an_output_of_another_kind_is_none(other: Tensor | None) -> None:
    outputs = Outputs()
    assert not outputs.add([SIGNAL, SIGNAL], {0: SIGNAL} | ({} if other is None else {1: other}))
    assert outputs.by_position == {}


def test_a_bound_holds_without_a_floating_output_only_if_all_is_equal() -> None:
    labels = SIGNAL.argmax(-1)
    wrong = labels.clone()
    wrong[0] += 1
    bound = ValidationSettings(min_sqnr_db=30)
    assert sqnr_check(compared((labels, labels)), {}, True, bound).passed
    failed = sqnr_check(compared((labels, wrong)), {}, True, bound)
    assert not failed.passed
    assert "no floating output" in failed.detail


def test_a_further_artifact_is_compared_output_by_output() -> None:
    labels = torch.arange(100)
    wrong = labels.clone()
    wrong[:20] = 0
    first, further = compared((labels, labels)), compared((labels, wrong))
    check = sqnr_check(first, {"model.onnx": further}, True, SETTINGS)
    assert not check.passed
    assert "model.onnx" in check.detail
    assert sqnr_check(first, {"model.onnx": first}, True, SETTINGS).passed
    assert not sqnr_check(compared((SIGNAL, FINE)), {"model.onnx": compared((SIGNAL, NOISY))}, True, SETTINGS).passed


def test_nan_is_no_number() -> None:
    check = sqnr_check(compared((SIGNAL, SIGNAL * float("nan"))), {}, True, SETTINGS)
    assert not check.passed
