"""Calibration data in memory: what an item may be, what is refused, and how calls are cut between samples."""

from itertools import count

import pytest
import torch
from torch import Tensor

from zeropoint.data.batches import Dim, Input, ModelInputs
from zeropoint.data.calls import CallDataset, IterableBatches, read_calls, reader_for
from zeropoint.data.items import read_item
from zeropoint.errors import InvalidSamples

INPUTS = (Input("x", torch.float32, (Dim(1, 8), 4)), Input("mask", torch.int64, (Dim(1, 8),)))


def numbered(*sizes: int) -> list[Tensor]:
    """Calls of these sizes; each sample holds its number."""
    return list(torch.split(torch.arange(float(sum(sizes)))[:, None], list(sizes)))


def batches(samples: CallDataset) -> list[list[float]]:
    return [call[0].flatten().tolist() for call in samples]


def test_tensors_tuples_and_dicts_are_calls() -> None:
    x = torch.randn(3, 4)
    assert read_item(x).names == ["argument 0"]
    assert read_item([x, x]).names == ["argument 0", "argument 1"]
    assert read_item({"x": x}).keywords == ("x",)
    assert (read_item(x).samples, read_item(torch.tensor(1.0)).samples) == (3, 1)


@pytest.mark.parametrize("item", [(torch.randn(2), "label"), {"x": 3}, (), None], ids=["text", "number", "empty", "no"])
def test_what_is_no_tensor_is_refused(item: object) -> None:
    with pytest.raises(InvalidSamples) as refused:
        read_item(item)
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
        list(IterableBatches([{"x": torch.zeros(4, 2)}, {"x": bad}], read_item))


def test_a_scalar_that_is_not_finite_is_refused_too() -> None:
    with pytest.raises(InvalidSamples, match="'argument 0'"):
        list(IterableBatches([torch.tensor(float("nan"))], read_item))


def test_nothing_at_all_is_refused() -> None:
    with pytest.raises(InvalidSamples) as refused:
        read_calls([], read_item, 8)
    assert refused.value.code == "dataset_empty"


def test_calls_are_cut_and_joined_to_batches_of_the_largest_call() -> None:
    samples = read_calls(numbered(4, 4, 2), read_item, 100)
    assert (samples.stop, samples.count, len(samples), samples.batch_size) == (10, 10, 3, 4)
    cut, rest = samples.between(0, 7), samples.between(7, 10)
    assert (batches(cut), batches(rest)) == ([[0, 1, 2, 3], [4, 5, 6]], [[7, 8, 9]])
    assert (cut.count, len(cut), rest.count, len(rest)) == (7, 2, 3, 1)
    assert batches(samples.between(2, 10)) == [[2, 3, 4, 5], [6, 7, 8, 9]]


def test_what_is_smaller_than_the_model_takes_is_left_out_as_on_disk() -> None:
    samples = read_calls(numbered(4, 4, 4), read_item, 100, smallest_batch=4).between(0, 9)
    assert (batches(samples), samples.count) == ([[0, 1, 2, 3], [4, 5, 6, 7]], 8)


def test_calls_of_another_shape_begin_a_new_batch() -> None:
    calls = [torch.zeros(2, 3), torch.ones(2, 5), torch.ones(2, 5)]
    shapes = [tuple(call[0].shape) for call in read_calls(calls, read_item, 100).between(1, 6)]
    assert shapes == [(1, 3), (2, 5), (2, 5)]


def test_a_call_that_cannot_be_cut_belongs_where_its_first_sample_does() -> None:
    calls = [(torch.full((4, 1), float(number)), torch.zeros(3)) for number in range(3)]
    samples = read_calls(calls, read_item, 100, smallest_batch=5)
    assert [samples.between(0, 6).count, samples.between(6, 12).count] == [8, 4]
    assert batches(samples.between(6, 12)) == [[2, 2, 2, 2]]


def test_keywords_stay_with_their_tensors() -> None:
    joined = list(read_calls([{"x": torch.zeros(2, 1)}, {"x": torch.ones(4, 1)}], read_item, 100))
    assert [call.names for call in joined] == [["x"], ["x"]]
    assert joined[0][0].flatten().tolist() == [0, 0, 1, 1]


def test_reading_ends_when_there_are_enough() -> None:
    endless = (torch.zeros(10, 1) for _ in count())
    assert read_calls(endless, read_item, 25).stop == 30


def test_a_call_keeps_its_tensors_in_order() -> None:
    x = torch.randn(1)
    assert ModelInputs([x], ["x"])[0] is x
