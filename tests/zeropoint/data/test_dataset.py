"""Datasets against model inputs: what fits, how it is cut into batches, and what is refused by name."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from zeropoint.data.batches import Dim, Input
from zeropoint.data.dataset import Dataset, judged, open_dataset
from zeropoint.errors import InvalidSamples

DYNAMIC = (Input("x", torch.float32, (Dim(1, 64), 3)),)
STATIC = (Input("x", torch.float32, (4, 3)),)


def samples_of(
    folder: Path, tensors: dict[str, Tensor], inputs: tuple[Input, ...], batch: int | None = None
) -> Dataset:
    save_file(tensors, folder / "dataset.safetensors")
    return open_dataset(folder / "dataset.safetensors", inputs, batch)


def sizes(samples: Dataset) -> list[int]:
    return [len(batch[0]) for batch in samples]


@pytest.mark.parametrize(
    ("inputs", "rows", "wanted", "expected"),
    [
        (DYNAMIC, 70, None, [32, 32, 6]),
        (DYNAMIC, 70, 500, [64, 6]),
        (DYNAMIC, 5, 2, [2, 2, 1]),
        ((Input("x", torch.float32, (Dim(2, None), 3)),), 5, 2, [2, 2]),
        ((Input("x", torch.float32, (Dim(8, None), 3)),), 20, 1, [8, 8]),
        (STATIC, 10, 32, [4, 4]),
    ],
    ids=["default", "bounded", "wish", "last-too-small", "at-least", "static"],
)
def test_batches_are_what_the_model_takes(
    tmp_path: Path, inputs: tuple[Input, ...], rows: int, wanted: int | None, expected: list[int]
) -> None:
    samples = samples_of(tmp_path, {"x": torch.randn(rows, 3)}, inputs, wanted)
    assert sizes(samples) == expected
    assert (len(samples), samples.count) == (len(expected), sum(expected))


def test_a_tensor_with_one_dimension_more_is_one_call_a_sample(tmp_path: Path) -> None:
    values = torch.randn(3, 4, 3)
    samples = samples_of(tmp_path, {"x": values}, STATIC)
    assert torch.equal(torch.stack([batch[0] for batch in samples]), values)


def test_tensors_come_in_the_models_order(tmp_path: Path) -> None:
    inputs = (Input("b", torch.float32, (Dim(1, None),)), Input("a", torch.int64, (Dim(1, None),)))
    samples = samples_of(tmp_path, {"a": torch.arange(3), "b": torch.ones(3)}, inputs)
    assert [tensor.dtype for tensor in next(iter(samples))] == [torch.float32, torch.int64]


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({"y": torch.randn(8, 3)}, "Tensor 'x': expected by the model"),
        ({"x": torch.randn(8, 3), "y": torch.randn(8)}, "Tensor 'y': the model has no input"),
        ({"x": torch.randn(8, 3).double()}, "Tensor 'x': expected float32, got float64"),
        ({"x": torch.randn(8, 4)}, r"Tensor 'x': expected shape \['1..64', 3\], got \[8, 4\]"),
        ({"x": torch.randn(8)}, "Ranks don't fit"),
        ({"x": torch.randn(0, 3)}, "different numbers of samples, or none"),
        ({"x": torch.tensor(1.0)}, "Tensor 'x': expected float32, got a scalar"),
    ],
    ids=["missing", "extra", "dtype", "shape", "rank", "empty", "scalar"],
)
def test_a_dataset_that_does_not_fit_is_refused_by_name(tmp_path: Path, tensors: dict[str, Tensor], words: str) -> None:
    with pytest.raises(InvalidSamples, match=words) as refused:
        samples_of(tmp_path, tensors, DYNAMIC)
    assert refused.value.code == "dataset_does_not_fit"


def test_too_few_samples_for_a_static_batch_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidSamples, match="takes batches of 4; the dataset has 3"):
        samples_of(tmp_path, {"x": torch.randn(3, 3)}, STATIC)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_values_that_are_not_finite_are_refused_by_name_and_place(tmp_path: Path, value: float) -> None:
    values = torch.randn(70, 3)
    values[40, 2] = value
    samples = samples_of(tmp_path, {"x": values}, DYNAMIC)
    with pytest.raises(InvalidSamples, match=r"Tensor 'x'.*\[40, 2\]") as refused:
        list(samples)
    assert refused.value.code == "non_finite_samples"


def test_a_file_that_is_no_dataset_is_refused(tmp_path: Path) -> None:
    (tmp_path / "d").write_bytes(b"\x10\x00\x00\x00\x00\x00\x00\x00not a header....")
    with pytest.raises(InvalidSamples) as refused:
        open_dataset(tmp_path / "d", DYNAMIC, None)
    assert refused.value.code == "dataset_invalid"


def test_labels_and_references_come_beside_the_batches(tmp_path: Path) -> None:
    tensors = {"x": torch.randn(5, 3), "labels": torch.arange(5), "references": torch.randn(5, 2)}
    samples = samples_of(tmp_path, tensors, DYNAMIC, 2)
    assert [len(batch) for batch in samples] == [1, 1, 1]
    pairs = list(judged(samples.between(1, 5)))
    assert [truth.labels.tolist() for _, truth in pairs if truth.labels is not None] == [[1, 2], [3, 4]]
    assert torch.equal(torch.cat([batch[0] for batch, _ in pairs]), tensors["x"][1:])
    assert torch.equal(
        torch.cat([t.references for _, t in pairs if t.references is not None]), tensors["references"][1:]
    )


def test_a_sample_that_is_a_call_has_one_label(tmp_path: Path) -> None:
    samples = samples_of(tmp_path, {"x": torch.randn(3, 4, 3), "labels": torch.arange(3)}, STATIC)
    assert [truth.labels.tolist() for _, truth in judged(samples) if truth.labels is not None] == [[0], [1], [2]]


def test_an_input_called_labels_is_an_input(tmp_path: Path) -> None:
    inputs = (*DYNAMIC, Input("labels", torch.float32, (Dim(1, None),)))
    samples = samples_of(tmp_path, {"x": torch.randn(5, 3), "labels": torch.randn(5)}, inputs)
    assert samples.truths == ()
    assert len(next(iter(samples))) == 2


@pytest.mark.parametrize(
    ("name", "tensor", "words"),
    [
        ("labels", torch.zeros(5, dtype=torch.int32), r"labels: expected int64 .*, got int32 \[5\]"),
        ("labels", torch.zeros(5, 2, 2, dtype=torch.int64), r"labels: expected int64 .*, got int64 \[5, 2, 2\]"),
        ("references", torch.zeros(5, dtype=torch.int64), r"references: expected floats .*, got int64 \[5\]"),
        ("labels", torch.zeros(4, dtype=torch.int64), "different numbers of samples"),
    ],
    ids=["dtype", "rank", "integers", "rows"],
)
def test_labels_and_references_are_checked(tmp_path: Path, name: str, tensor: Tensor, words: str) -> None:
    with pytest.raises(InvalidSamples, match=words):
        samples_of(tmp_path, {"x": torch.randn(5, 3), name: tensor}, DYNAMIC)


def test_references_that_are_not_finite_are_named(tmp_path: Path) -> None:
    samples = samples_of(tmp_path, {"x": torch.randn(5, 3), "references": torch.full((5,), float("inf"))}, DYNAMIC)
    with pytest.raises(InvalidSamples, match="'references' holds NaN or infinity"):
        list(judged(samples))
