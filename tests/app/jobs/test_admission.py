"""Does a dataset serve a program's inputs?"""

import pytest

from app.intake.facts import Dim, Tensor
from app.jobs.admission import misfits

BATCHED = Tensor("x", "float32", (Dim(2, 8), 1, 4))
STATIC = Tensor("x", "float32", (4, 3))
SINGLE = Tensor("x", "float32", (3,))
IDS = Tensor("ids", "int64", (Dim(1, None), Dim(2, 16)))


def data(*shape: int, name: str = "x", dtype: str = "float32") -> Tensor:
    return Tensor(name, dtype, shape)


@pytest.mark.parametrize(
    ("expected", "got"),
    [
        (BATCHED, data(2, 1, 4)),
        (BATCHED, data(1000, 1, 4)),
        (BATCHED, data(10, 5, 1, 4)),
        (STATIC, data(4, 3)),
        (STATIC, data(7, 3)),
        (STATIC, data(1, 4, 3)),
        (SINGLE, data(5, 3)),
        (SINGLE, data(3)),
        (IDS, data(5, 16, name="ids", dtype="int64")),
    ],
    ids=[
        "dynamic batch, fewest samples",
        "more samples than one batch",
        "one sample a call, which is itself a batch",
        "static batch",
        "more samples than the static batch",
        "one sample a call",
        "one sample a call without a batch",
        "a vector is its own batch",
        "dynamic length",
    ],
)
def test_fits(expected: Tensor, got: Tensor) -> None:
    assert misfits([expected], [got]) == []


@pytest.mark.parametrize(
    ("expected", "got", "text"),
    [
        (BATCHED, data(1, 1, 4), "x: expected float32 [2..8, 1, 4], got float32 [1, 1, 4]."),
        (BATCHED, data(5, 3, 4), "x: expected float32 [2..8, 1, 4], got float32 [5, 3, 4]."),
        (BATCHED, data(5, 9, 1, 4), "x: expected float32 [samples, 2..8, 1, 4], got float32 [5, 9, 1, 4]."),
        (BATCHED, data(5, 4), "x: expected float32 [2..8, 1, 4], got float32 [5, 4]."),
        (STATIC, data(3, 3), "x: expected float32 [4, 3], got float32 [3, 3]."),
        (STATIC, data(4, 3, dtype="float64"), "x: expected float32 [4, 3], got float64 [4, 3]."),
        (IDS, data(5, 17, name="ids", dtype="int64"), "ids: expected int64 [1.., 2..16], got int64 [5, 17]."),
    ],
)
def test_a_misfit_names_tensor_expected_and_got(expected: Tensor, got: Tensor, text: str) -> None:
    assert misfits([expected], [got]) == [text]


def test_a_missing_and_a_foreign_tensor_are_named_with_near_names() -> None:
    found = misfits([Tensor("pixels", "float32", (4, 3))], [data(4, 3, name="pixel")])
    assert found == [
        "pixel is not an input of the model (near: pixels).",
        "pixels is missing (near: pixel); expected float32 [4, 3].",
    ]


def test_every_tensor_must_have_the_same_rule() -> None:
    """One tensor batched and one sample by sample can't go through the model together."""
    found = misfits([STATIC, Tensor("y", "float32", (4, 3))], [data(4, 3), data(4, 4, 3, name="y")])
    assert found == ["y: expected float32 [4, 3], got float32 [4, 4, 3]."]


def test_labels_and_references_may_be_there_and_are_checked() -> None:
    labels, references = data(8, name="labels", dtype="int64"), data(8, 10, name="references")
    assert misfits([BATCHED], [data(8, 1, 4), labels, references]) == []
    assert misfits([BATCHED], [data(8, 1, 4), data(8, name="labels")]) == [
        "labels: expected int64 [samples] or [samples, k], got float32 [8]."
    ]


def test_an_input_called_labels_is_an_input() -> None:
    wanted = [BATCHED, Tensor("labels", "int64", (Dim(2, 8), 3))]
    found = misfits(wanted, [data(8, 1, 4), data(8, name="labels", dtype="int64")])
    assert found == ["labels: expected int64 [2..8, 3], got int64 [8]."]
