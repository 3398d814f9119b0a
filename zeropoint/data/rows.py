"""Calibration data of any form becomes items: a tensor, an array, a dict of tensors and a Dataset hold rows of samples.

A list, a generator and a DataLoader hold items already: each is a batch, which the model is called with.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, default_collate

from zeropoint.data.items import as_tensor, in_words, is_array
from zeropoint.errors import InvalidSamples

FORMS = (
    "Give a list of batches, a generator or a DataLoader; or samples as rows: a tensor, an array, a dict of tensors or "
    "a Dataset."
)


@dataclass(frozen=True)
class BatchSizes:
    """How many rows make a batch, and the fewest that the model takes."""

    size: int
    smallest: int = 1


def items_of(data: object, sizes: BatchSizes) -> Iterable[object]:
    """Return items, each a batch for one call of the model. Raises InvalidSamples on what is no data."""
    rows = as_tensor(data)
    if rows is not None:
        return _parts({"": rows}, sizes, data)
    if isinstance(data, Mapping):
        columns = {name: as_tensor(value) for name, value in data.items()}
        return _parts({name: column for name, column in columns.items() if column is not None}, sizes, data)
    if isinstance(data, str | bytes | Path) or data is None or is_array(data):
        raise _invalid(f"A value of the type {type(data).__name__} is no calibration data.")
    if _is_map(data):
        return MapRows(data, sizes)
    if not isinstance(data, Iterable):
        raise _invalid(f"{type(data).__name__} can't be iterated over.")
    return data


def may_be_reused(data: object) -> bool:
    """Return whether what yields items may fill the same memory again for the next one, as a generator may."""
    return not isinstance(data, Sequence | DataLoader | MapRows)


@dataclass(frozen=True)
class MapRows:
    """A Dataset, whose rows are read by position and joined to batches."""

    data: Any
    sizes: BatchSizes

    def __len__(self) -> int:
        """Return the number of batches."""
        return len(range(0, len(self.data) - self.sizes.smallest + 1, self.sizes.size))

    def __iter__(self) -> Iterator[object]:
        """Yield batches. Raises InvalidSamples when the rows can't be read by position or joined."""
        for first in range(0, len(self.data) - self.sizes.smallest + 1, self.sizes.size):
            rows = range(first, min(first + self.sizes.size, len(self.data)))
            try:
                joined = default_collate([self.data[row] for row in rows])
            except (TypeError, KeyError, IndexError, RuntimeError) as error:
                raise _invalid(
                    f"Rows {rows.start} to {rows.stop - 1} of {type(self.data).__name__} can't be joined to a batch: "
                    "they are no tensors or numbers, of different shapes, or not readable by position."
                ) from error
            yield joined


def _parts(columns: Mapping[str, Tensor], sizes: BatchSizes, data: object) -> list[object]:
    """Return the rows of tensors with equal first dimensions as batches. Raises InvalidSamples."""
    counts = {len(column) if column.dim() else -1 for column in columns.values()}
    if len(counts) != 1 or min(counts) < 0:
        held = ", ".join(
            f"{name}: {in_words(column)}" if name else in_words(column) for name, column in columns.items()
        )
        raise _invalid(f"{type(data).__name__} ({held or 'empty'}) has no rows: a first dimension that counts samples.")
    count = counts.pop()
    if 0 < count < sizes.smallest:
        raise InvalidSamples(
            "dataset_does_not_fit",
            f"The model takes batches of at least {sizes.smallest}; there are {count} samples.",
            "Give more samples, or export the model with a dynamic batch dimension.",
        )
    starts = range(0, count - sizes.smallest + 1, sizes.size)
    batches = [{name: column[first : first + sizes.size] for name, column in columns.items()} for first in starts]
    return list(batches) if isinstance(data, Mapping) else [batch[""] for batch in batches]


def _is_map(data: object) -> bool:
    """Return whether rows are read by position, as from a Dataset of torch or of Hugging Face."""
    return (
        hasattr(data, "__getitem__") and hasattr(data, "__len__") and not isinstance(data, Sequence | IterableDataset)
    )


def _invalid(detail: str) -> InvalidSamples:
    return InvalidSamples("dataset_invalid", detail, FORMS)
