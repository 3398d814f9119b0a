"""A dataset on disk, read batch by batch; only one batch is in memory at a time.

A dataset is a safetensors file whose keys are the model's input names, all with the same first dimension (samples).
Dimension 0 of a tensor is the input's batch dimension; or each tensor has one dimension more than its input, and every
sample is a call by itself. The file may also hold ground truth (`schema.labels`).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from zeropoint.data.batches import (
    EXPORT_AGAIN,
    Batches,
    Dim,
    Input,
    ModelInputs,
    Truth,
    _fits,
    require_finite,
    require_names,
)
from zeropoint.errors import InvalidSamples
from zeropoint.schema.labels import LABELS, REFERENCES, TRUTHS, misfit
from zeropoint.schema.recipe import DEFAULT_BATCH_SIZE


@dataclass(frozen=True)
class Dataset:
    """A dataset on disk, cut into batches: rows [start, stop) in steps of `batch_size`."""

    path: Path
    inputs: tuple[Input, ...]
    start: int
    stop: int
    batch_size: int
    smallest_batch: int
    """A last batch with fewer rows than this is left out, because the model doesn't take it."""
    stacked: bool
    """Whether dimension 0 is the batch; if not, each row is one call and `batch_size` is 1."""
    truths: tuple[str, ...] = ()
    """Which of `TRUTHS` the dataset holds."""

    @property
    def count(self) -> int:
        """The number of samples in all batches."""
        rows = self.stop - self.start
        rest = rows % self.batch_size
        return rows if rest >= self.smallest_batch else rows - rest

    def __len__(self) -> int:
        return -(-self.count // self.batch_size)

    def between(self, start: int, stop: int) -> "Dataset":
        """Return the same dataset with other rows."""
        return replace(self, start=start, stop=stop)

    def after(self, batches: int) -> "Dataset":
        """Return the same dataset without the first `batches`."""
        return self.between(min(self.start + batches * self.batch_size, self.stop), self.stop)

    def __iter__(self) -> Iterator[ModelInputs]:
        """Yield batches: one tensor per model input, in the model's order. Raises InvalidSamples on NaN or infinity."""
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
    """Return the first `count` samples of a dataset on disk; other batches as they are: the caller stops early."""
    if not isinstance(batches, Dataset):
        return batches
    return batches.between(batches.start, min(batches.stop, batches.start + max(count, batches.smallest_batch)))


def judged(batches: Batches) -> Iterator[tuple[Sequence[Tensor], Truth]]:
    """Yield batches with what their outputs are compared with; calls in memory have no such thing."""
    return batches.judged() if isinstance(batches, Dataset) else ((batch, Truth()) for batch in batches)


def open_dataset(path: Path, inputs: tuple[Input, ...], batch_size: int | None) -> Dataset:
    """Check a dataset against the model's inputs (names, dtypes, shapes, rows) and choose a batch size.

    Raises InvalidSamples, naming the tensor, what was expected and what came.
    """
    try:
        with safe_open(path, framework="pt") as file:
            shapes = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118 - not a dict
            dtypes = {key: file.get_slice(key)[0:0].dtype for key, shape in shapes.items() if shape}
    except SafetensorError as error:
        raise InvalidSamples(
            "dataset_invalid", "The dataset is not a readable safetensors file.", EXPORT_AGAIN
        ) from error
    truths = tuple(name for name in TRUTHS if name in shapes and all(name != spec.name for spec in inputs))
    require_names({name: shape for name, shape in shapes.items() if name not in truths}, inputs)
    _require_truths({name: shapes[name] for name in truths}, dtypes)
    inputs = tuple(spec for spec in inputs if spec.name in shapes)
    for spec in inputs:
        if not shapes[spec.name] or dtypes[spec.name] != spec.dtype:
            got = str(dtypes.get(spec.name, "a scalar")).removeprefix("torch.")
            expected = str(spec.dtype).removeprefix("torch.")
            raise InvalidSamples(
                "dataset_does_not_fit", f"Tensor {spec.name!r}: expected {expected}, got {got}.", EXPORT_AGAIN
            )
    rows = {shapes[name][0] for name in (*(spec.name for spec in inputs), *truths)}
    if len(rows) != 1 or min(rows) < 1:
        raise InvalidSamples(
            "dataset_does_not_fit",
            f"The tensors hold different numbers of samples, or none: {sorted(rows)}.",
            EXPORT_AGAIN,
        )
    stacked = _is_stacked(shapes, inputs)
    for spec in inputs:
        _require_shape(spec, shapes[spec.name], stacked)
    size, smallest = _batch_sizes(inputs, batch_size) if stacked else (1, 1)
    samples = Dataset(path, inputs, 0, rows.pop(), size, smallest, stacked, truths)
    if len(samples) == 0:
        raise InvalidSamples(
            "dataset_does_not_fit",
            f"The model takes batches of {size}; the dataset has {samples.stop} samples.",
            EXPORT_AGAIN,
        )
    return samples


def _require_truths(shapes: dict[str, tuple[int, ...]], dtypes: dict[str, torch.dtype]) -> None:
    for name, shape in shapes.items():
        if detail := misfit(name, str(dtypes.get(name, "a scalar")).removeprefix("torch."), shape):
            raise InvalidSamples("dataset_does_not_fit", f"Tensor {detail}", EXPORT_AGAIN)


def _is_stacked(shapes: dict[str, tuple[int, ...]], inputs: tuple[Input, ...]) -> bool:
    extra = {len(shapes[spec.name]) - len(spec.shape) for spec in inputs}
    if extra == {0}:
        return True
    if extra == {1}:
        return False
    ranks = ", ".join(f"{i.name} {list(shapes[i.name])} for an input of rank {len(i.shape)}" for i in inputs)
    raise InvalidSamples("dataset_does_not_fit", f"Ranks don't fit: {ranks}.", EXPORT_AGAIN)


def _require_shape(spec: Input, shape: tuple[int, ...], stacked: bool) -> None:
    pairs = list(zip(spec.shape, shape, strict=True))[1:] if stacked else list(zip(spec.shape, shape[1:], strict=True))
    for expected, got in pairs:
        if not _fits(expected, got):
            shape_taken = [d if isinstance(d, int) else f"{d.minimum}..{d.maximum or ''}" for d in spec.shape]
            raise InvalidSamples(
                "dataset_does_not_fit",
                f"Tensor {spec.name!r}: expected shape {shape_taken}, got {list(shape)}.",
                EXPORT_AGAIN,
            )


def _batch_sizes(inputs: tuple[Input, ...], requested: int | None) -> tuple[int, int]:
    """Return batch size and smallest batch: a static batch dimension decides, a dynamic one bounds `requested`."""
    dimensions = [spec.shape[0] for spec in inputs]
    static = [d for d in dimensions if isinstance(d, int)]
    if static:
        return static[0], static[0]
    dynamic = [d for d in dimensions if isinstance(d, Dim)]
    smallest = max(1, *(dim.minimum for dim in dynamic))
    largest = min((dim.maximum for dim in dynamic if dim.maximum is not None), default=None)
    size = max(requested or DEFAULT_BATCH_SIZE, smallest)
    return (size if largest is None else min(size, largest)), smallest
