"""Samples as rows become batches, whatever holds them; what holds no samples is refused with a stable code."""

from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from zeropoint.data.rows import BatchSizes, items_of
from zeropoint.errors import InvalidSamples

ROWS = torch.arange(10.0)[:, None]
SIZES = BatchSizes(4)


class Images(Dataset[tuple[Tensor, int]]):
    """Ten samples with labels; past its end it raises what a list doesn't."""

    def __len__(self) -> int:
        return 10

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        if not 0 <= index < 10:
            raise KeyError(index)
        return ROWS[index], index


class Ragged(Images):
    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return torch.zeros(index + 1), index


class Columns:
    """Rows by position and by iteration, as Hugging Face datasets are."""

    def __len__(self) -> int:
        return 10

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"x": ROWS[index]}

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        return (self[index] for index in range(10))


class Stream(IterableDataset[Tensor]):
    def __iter__(self) -> Iterator[Tensor]:
        yield from torch.split(ROWS, 4)


def first(item: Any) -> Any:
    if isinstance(item, dict):
        return next(iter(item.values()))
    return item if isinstance(item, Tensor) else item[0]


@pytest.mark.parametrize(
    "data", [ROWS, ROWS.numpy(), {"x": ROWS, "labels": torch.arange(10)}, Images(), TensorDataset(ROWS), Columns()]
)
def test_rows_are_samples(data: object) -> None:
    batches = [torch.as_tensor(first(item)).flatten().tolist() for item in items_of(data, SIZES)]
    assert batches == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    whole = [torch.as_tensor(first(item)).flatten().tolist() for item in items_of(data, BatchSizes(4, 4))]
    assert whole == batches[:2]


@pytest.mark.parametrize(
    "data", [[ROWS], (ROWS,), deque([ROWS]), DataLoader(TensorDataset(ROWS)), iter([ROWS]), Stream()]
)
def test_batches_are_left_as_they_are(data: Iterable[object]) -> None:
    assert items_of(data, SIZES) is data


@pytest.mark.parametrize(
    "data",
    [None, 3, "samples.safetensors", Path("x"), b"x", torch.tensor(1.0), np.array(["a"]), {}, {"x": 3}, lambda: [ROWS]],
)
def test_what_holds_no_samples_is_refused(data: object) -> None:
    with pytest.raises(InvalidSamples) as refused:
        items_of(data, SIZES)
    assert refused.value.code == "dataset_invalid"


def test_columns_of_different_lengths_and_too_few_rows_are_refused() -> None:
    with pytest.raises(InvalidSamples, match=r"x: float32 \[10, 1\], y: float32 \[9, 1\]"):
        items_of({"x": ROWS, "y": ROWS[1:]}, SIZES)
    with pytest.raises(InvalidSamples, match="at least 16; there are 10"):
        items_of(ROWS, BatchSizes(16, 16))


def test_rows_that_can_not_be_joined_are_refused() -> None:
    with pytest.raises(InvalidSamples, match="Rows 0 to 3 of Ragged"):
        list(items_of(Ragged(), SIZES))
