"""A dataset on disk, read batch by batch; only one batch is in memory at a time.

A dataset is a safetensors file whose keys are the model's input names, all with the same first dimension (samples).
Dimension 0 of a tensor is the input's batch dimension; or each tensor has one dimension more than its input, and every
sample is a call by itself. The file may also hold ground truth (`schema.labels`).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from zeropoint.data.batches import (
    EXPORT_AGAIN,
    Batches,
    Input,
    ModelInputs,
    Samples,
    Truth,
    batch_sizes,
    fits,
    require_finite,
    require_names,
)
from zeropoint.errors import InvalidSamples
from zeropoint.schema.labels import LABELS, REFERENCES, TRUTHS, misfit


@dataclass(frozen=True, kw_only=True)
class Dataset(Samples):
    """A dataset on disk; only one batch of it is in memory."""

    path: Path
    inputs: tuple[Input, ...]
    stacked: bool
    """Whether dimension 0 is the batch; if not, each row is one call and `batch_size` is 1."""
    truths: tuple[str, ...] = ()
    """Which of `TRUTHS` the dataset holds."""

    @property
    def count(self) -> int:
        rows = self.stop - self.start
        rest = rows % self.batch_size
        return rows if rest >= self.smallest_batch else rows - rest

    def __len__(self) -> int:
        return -(-self.count // self.batch_size)

    def after(self, batches: int) -> Self:
        """Return the same batches without the first so many."""
        return self.between(min(self.start + batches * self.batch_size, self.stop), self.stop)

    def __iter__(self) -> Iterator[ModelInputs]:
        names = [spec.name for spec in self.inputs]
        with safe_open(self.path, framework="pt") as file:
            slices = [file.get_slice(i.name) for i in self.inputs]
            for rows in self._rows():
                tensors = [s[rows] for s in slices]
                for spec, tensor in zip(self.inputs, tensors, strict=True):
                    require_finite(spec.name, tensor, rows.start)
                yield ModelInputs(tensors if self.stacked else (t.squeeze(0) for t in tensors), names)

    def judged(self) -> Iterator[tuple[ModelInputs, Truth]]:
        """Yield batches with what their outputs are compared with."""
        with safe_open(self.path, framework="pt") as file:
            slices = {name: file.get_slice(name) for name in self.truths}
            for rows, call in zip(self._rows(), self, strict=True):
                truths = {name: s[rows] for name, s in slices.items()}
                if REFERENCES in truths:
                    require_finite(REFERENCES, truths[REFERENCES], rows.start)
                yield call, Truth(truths.get(LABELS), truths.get(REFERENCES))

    def _rows(self) -> Iterator[slice]:
        for first in range(self.start, self.start + self.count, self.batch_size):
            yield slice(first, min(first + self.batch_size, self.stop))


def first_of(batches: Batches, count: int) -> Batches:
    """Return the first `count` samples, or all of a stream."""
    return batches.first(count) if isinstance(batches, Samples) else batches


def judged(batches: Batches) -> Iterator[tuple[Sequence[Tensor], Truth]]:
    """Yield batches with what their outputs are compared with: for calls in memory, the labels that came with them."""
    if isinstance(batches, Dataset):
        return batches.judged()
    return ((batch, Truth(getattr(batch, "labels", None), assumed=True)) for batch in batches)


def open_dataset(path: Path, inputs: tuple[Input, ...], batch_size: int | None) -> Dataset:
    """Check a dataset against the model's inputs (names, dtypes, shapes, rows) and choose a batch size.

    Raises InvalidSamples, naming the tensor, what was expected and what came.
    """
    shapes, dtypes = _read_header(path)
    truths = tuple(name for name in TRUTHS if name in shapes and all(name != spec.name for spec in inputs))
    require_names({name: shape for name, shape in shapes.items() if name not in truths}, inputs)
    _require_truths({name: shapes[name] for name in truths}, dtypes)
    inputs = tuple(spec for spec in inputs if spec.name in shapes)
    _require_dtypes(inputs, shapes, dtypes)
    rows = _common_rows([shapes[name] for name in (*(spec.name for spec in inputs), *truths)])
    stacked = _is_stacked(shapes, inputs)
    for spec in inputs:
        _require_shape(spec, shapes[spec.name], stacked)
    size, smallest = batch_sizes(inputs, batch_size) if stacked else (1, 1)
    dataset = Dataset(
        path=path,
        inputs=inputs,
        start=0,
        stop=rows,
        batch_size=size,
        smallest_batch=smallest,
        stacked=stacked,
        truths=truths,
    )
    if len(dataset) == 0:
        raise _misfit(f"The model takes batches of {size}; the dataset has {rows} samples.")
    return dataset


def _read_header(path: Path) -> tuple[dict[str, tuple[int, ...]], dict[str, torch.dtype]]:
    """Return the shape of each tensor, and its dtype unless it is a scalar. Raises InvalidSamples."""
    try:
        with safe_open(path, framework="pt") as file:
            shapes = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118 - not a dict
            dtypes = {key: file.get_slice(key)[0:0].dtype for key, shape in shapes.items() if shape}
    except SafetensorError as error:
        raise InvalidSamples(
            "dataset_invalid", "The dataset is not a readable safetensors file.", EXPORT_AGAIN
        ) from error
    return shapes, dtypes


def _misfit(detail: str) -> InvalidSamples:
    return InvalidSamples("dataset_does_not_fit", detail, EXPORT_AGAIN)


def _require_dtypes(
    inputs: tuple[Input, ...], shapes: dict[str, tuple[int, ...]], dtypes: dict[str, torch.dtype]
) -> None:
    for spec in inputs:
        if not shapes[spec.name] or dtypes[spec.name] != spec.dtype:
            got = str(dtypes.get(spec.name, "a scalar")).removeprefix("torch.")
            expected = str(spec.dtype).removeprefix("torch.")
            raise _misfit(f"Tensor {spec.name!r}: expected {expected}, got {got}.")


def _common_rows(shapes: list[tuple[int, ...]]) -> int:
    rows = {shape[0] for shape in shapes}
    if len(rows) != 1 or min(rows) < 1:
        raise _misfit(f"The tensors hold different numbers of samples, or none: {sorted(rows)}.")
    return rows.pop()


def _require_truths(shapes: dict[str, tuple[int, ...]], dtypes: dict[str, torch.dtype]) -> None:
    for name, shape in shapes.items():
        if problem := misfit(name, str(dtypes.get(name, "a scalar")).removeprefix("torch."), shape):
            raise _misfit(f"Tensor {problem}")


def _is_stacked(shapes: dict[str, tuple[int, ...]], inputs: tuple[Input, ...]) -> bool:
    extra = {len(shapes[spec.name]) - len(spec.shape) for spec in inputs}
    if extra == {0}:
        return True
    if extra == {1}:
        return False
    ranks = ", ".join(f"{i.name} {list(shapes[i.name])} for an input of rank {len(i.shape)}" for i in inputs)
    raise _misfit(f"Ranks don't fit: {ranks}.")


def _require_shape(spec: Input, shape: tuple[int, ...], stacked: bool) -> None:
    pairs = list(zip(spec.shape, shape, strict=True))[1:] if stacked else list(zip(spec.shape, shape[1:], strict=True))
    for expected, got in pairs:
        if not fits(expected, got):
            sizes = [d if isinstance(d, int) else f"{d.minimum}..{d.maximum or ''}" for d in spec.shape]
            raise _misfit(f"Tensor {spec.name!r}: expected shape {sizes}, got {list(shape)}.")
