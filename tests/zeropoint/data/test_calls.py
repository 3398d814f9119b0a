"""Calibration data in memory: what an item may be, what is refused, and what a stream keeps out."""

import pytest
import torch
from torch import Tensor

from zeropoint.data.batches import Dim, Input, ModelInputs
from zeropoint.data.calls import MAX_HELD_OUT_CALLS, CalibrationStream, IterableBatches, read_inputs, reader_for
from zeropoint.errors import InvalidSamples

INPUTS = (Input("x", torch.float32, (Dim(1, 8), 4)), Input("mask", torch.int64, (Dim(1, 8),)))


def stream(items: list[Tensor], wanted: int = 128, *, hold_out: bool = True) -> CalibrationStream:
    return CalibrationStream(items, read_inputs, wanted, hold_out=hold_out)


def test_tensors_tuples_and_dicts_are_calls() -> None:
    x = torch.randn(3, 4)
    assert read_inputs(x).names == ["argument 0"]
    assert read_inputs([x, x]).names == ["argument 0", "argument 1"]
    assert read_inputs({"x": x}).keywords == ("x",)
    assert (read_inputs(x).samples, read_inputs(torch.tensor(1.0)).samples) == (3, 1)


@pytest.mark.parametrize("item", [(torch.randn(2), "label"), {"x": 3}, (), None], ids=["text", "number", "empty", "no"])
def test_what_is_no_tensor_is_refused(item: object) -> None:
    with pytest.raises(InvalidSamples) as refused:
        read_inputs(item)
    assert refused.value.code == "calibration_item_invalid"


def test_a_program_takes_its_inputs_by_name_or_in_order() -> None:
    x, mask = torch.randn(2, 4), torch.ones(2, dtype=torch.int64)
    read = reader_for(INPUTS)
    for item in ((x, mask), {"mask": mask, "x": x}):
        call = read(item)
        assert call[0] is x
        assert call[1] is mask


@pytest.mark.parametrize(
    ("x", "mask", "word"),
    [
        (torch.randn(2, 5), torch.ones(2).long(), r"'x'.*\[2, 5\]"),
        (torch.randn(2, 4).double(), torch.ones(2).long(), "'x'.*float64"),
        (torch.randn(9, 4), torch.ones(2).long(), r"'x'.*\[9, 4\]"),
        (torch.randn(2, 4), torch.ones(2), "'mask'.*float32"),
    ],
    ids=["shape", "dtype", "batch", "second"],
)
def test_a_call_that_does_not_fit_the_program_is_refused_by_name(x: Tensor, mask: Tensor, word: str) -> None:
    with pytest.raises(InvalidSamples, match=word):
        reader_for(INPUTS)((x, mask))


def test_inputs_that_are_missing_or_unknown_are_refused_by_name() -> None:
    with pytest.raises(InvalidSamples, match="'mask'"):
        reader_for(INPUTS)({"x": torch.randn(2, 4)})
    with pytest.raises(InvalidSamples, match="'mask'"):
        reader_for(INPUTS)(torch.randn(2, 4))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_value_that_is_not_finite_is_refused_by_name_and_sample(value: float) -> None:
    bad = torch.zeros(4, 2)
    bad[1, 1] = value
    with pytest.raises(InvalidSamples, match=r"'x'.*\[5, 1\]"):
        list(IterableBatches([{"x": torch.zeros(4, 2)}, {"x": bad}], read_inputs))


def test_a_scalar_that_is_not_finite_is_refused_too() -> None:
    with pytest.raises(InvalidSamples, match="'argument 0'"):
        list(IterableBatches([torch.tensor(float("nan"))], read_inputs))


def test_nothing_at_all_is_refused() -> None:
    with pytest.raises(InvalidSamples) as refused:
        list(stream([]))
    assert refused.value.code == "dataset_empty"


def test_every_fourth_call_is_kept_out_and_never_calibrates() -> None:
    items = [torch.full((1, 1), float(i)) for i in range(12)]
    read = stream(items)
    used = [float(call[0]) for call in read]
    assert used == [0, 1, 2, 4, 5, 6, 8, 9, 10]
    assert [float(call[0]) for call in read.held_out] == [3, 7, 11]
    assert (read.count, len(read), read.batch_size, read.first) == (9, 9, 1, [])


def test_only_a_few_calls_are_held_in_memory() -> None:
    read = stream([torch.zeros(1, 1)] * 100, wanted=1000)
    assert len(list(read)) == 100 - MAX_HELD_OUT_CALLS
    assert len(read.held_out) == MAX_HELD_OUT_CALLS


def test_a_stream_ends_when_it_has_enough() -> None:
    read = stream([torch.zeros(10, 1)] * 50, wanted=30, hold_out=False)
    assert [len(read) for _ in read] == [3, 3, 3]
    assert (read.count, len(read)) == (30, 3)


def test_a_call_keeps_its_tensors_in_order() -> None:
    x = torch.randn(1)
    assert ModelInputs([x], ["x"])[0] is x
