"""A model's inputs and the batches that serve them, with the checks that names, dtypes, shapes and values fit.

A batch holds one tensor per input, in the model's order. Next to it, `Truth` holds the labels or references that
metrics compare outputs with; no model is fed them.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, Self

import torch
from torch import Tensor

from zeropoint.errors import InvalidSamples
from zeropoint.schema.recipe import DEFAULT_BATCH_SIZE

EXPORT_AGAIN = "Give samples whose tensors are named, typed and shaped like the model's inputs."


@dataclass(frozen=True)
class Dim:
    """A dynamic dimension: any size from `minimum` to `maximum` (None: unbounded)."""

    minimum: int
    maximum: int | None


@dataclass(frozen=True)
class Input:
    """One tensor that the model takes."""

    name: str
    dtype: torch.dtype
    shape: tuple[int | Dim, ...]
    optional: bool = False


class ModelInputs(list[Tensor]):
    """The tensors of one call; the last ones are keyword arguments, named by `keywords`."""

    def __init__(self, tensors: Iterable[Tensor], keywords: Sequence[str] = (), labels: Tensor | None = None) -> None:
        super().__init__(tensors)
        self.keywords = tuple(keywords)
        self.labels = labels
        """The classes that came beside them, int64 [samples] or [samples, k]; no model is fed them."""

    @property
    def names(self) -> list[str]:
        """The name of each tensor in errors: its keyword, or its position from 0."""
        first = len(self) - len(self.keywords)
        return [*(f"argument {position}" for position in range(first)), *self.keywords]

    @property
    def samples(self) -> int:
        """Size of the first dimension of the first tensor; 1 for a scalar."""
        return self[0].shape[0] if self[0].dim() else 1


class ModelOutputs(list[object]):
    """The flat outputs of one call; `names` has the name or the position of each: "logits", "0", "states.1"."""

    def __init__(self, values: Iterable[object], names: Sequence[str] = ()) -> None:
        super().__init__(values)
        self.names = tuple(names) if len(names) == len(self) else tuple(str(place) for place in range(len(self)))


@dataclass(frozen=True)
class Truth:
    """What the outputs of one batch are compared with; the first dimension counts samples. None: not in the dataset."""

    labels: Tensor | None = None
    references: Tensor | None = None
    assumed: bool = field(default=False, kw_only=True)
    """Whether the labels only look like classes: where they don't fit the outputs, they are none."""


class Batches(Protocol):
    """What calibration and evaluation read: one call of the model at a time."""

    @property
    def count(self) -> int:
        """The number of samples in all batches; that of a stream is known once it was read."""

    @property
    def batch_size(self) -> int:
        """The number of samples in a whole batch."""

    def __len__(self) -> int:
        """Return the number of batches; 0 while a stream doesn't know."""

    def __iter__(self) -> Iterator[Sequence[Tensor]]:
        """Yield the tensors of each batch in the order of the model's inputs. Raises InvalidSamples."""


@dataclass(frozen=True, kw_only=True)
class Samples(ABC):
    """Samples [start, stop) of a data set in batches of `batch_size`: what calibrates, decides or evaluates."""

    start: int
    stop: int
    batch_size: int
    smallest_batch: int = 1
    """A last batch with fewer samples than this is left out: the model doesn't take it."""

    @property
    @abstractmethod
    def count(self) -> int:
        """Return how many samples the batches hold together."""

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of batches."""

    @abstractmethod
    def __iter__(self) -> Iterator[ModelInputs]:
        """Yield batches: one tensor per model input, in the model's order. Raises InvalidSamples on NaN or infinity."""

    def between(self, start: int, stop: int) -> Self:
        """Return the same data set with other samples."""
        return replace(self, start=start, stop=stop)

    def first(self, count: int) -> Self:
        """Return the first `count` samples, or as many as there are; a whole batch where the model takes no less."""
        return self.between(self.start, min(self.stop, self.start + max(count, self.smallest_batch)))


def own_copies(tensors: Iterable[Tensor], device: str = "cpu") -> list[Tensor]:
    """Return copies on a device for one forward pass, which may write into its inputs: `x.sub_(mean)` changes them.

    Every pass over samples takes its arguments from here, so that no later pass, and no caller, meets changed ones.
    The copy costs a read and a write of the batch, which is little beside a pass that reads it too.
    """
    return [tensor.to(device, copy=True) for tensor in tensors]


def batch_sizes(inputs: tuple[Input, ...], batch_size: int | None) -> tuple[int, int]:
    """Return (batch size, smallest batch): a static batch dimension decides both, a dynamic one bounds the wish."""
    dimensions = [spec.shape[0] for spec in inputs if spec.shape]
    static = [size for size in dimensions if isinstance(size, int)]
    if static:
        return static[0], static[0]
    dynamic = [size for size in dimensions if isinstance(size, Dim)]
    smallest = max(1, *(size.minimum for size in dynamic)) if dynamic else 1
    largest = min((size.maximum for size in dynamic if size.maximum is not None), default=None)
    size = max(batch_size or DEFAULT_BATCH_SIZE, smallest)
    return (size if largest is None else min(size, largest)), smallest


def require_names(shapes: dict[str, tuple[int, ...]], inputs: tuple[Input, ...]) -> None:
    """Raise InvalidSamples unless the tensors have the names of the inputs, optional ones aside."""
    expected = {spec.name for spec in inputs}
    for name in sorted({spec.name for spec in inputs if not spec.optional} - set(shapes)):
        raise InvalidSamples(
            "dataset_does_not_fit", f"Tensor {name!r}: expected by the model, not in the dataset.", EXPORT_AGAIN
        )
    for name in sorted(set(shapes) - expected):
        raise InvalidSamples(
            "dataset_does_not_fit", f"Tensor {name!r}: the model has no input of this name.", EXPORT_AGAIN
        )


def fits(expected: int | Dim, got: int) -> bool:
    if isinstance(expected, int):
        return expected == got
    return expected.minimum <= got and (expected.maximum is None or got <= expected.maximum)


def require_shape(spec: Input, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """Raise InvalidSamples unless one call's tensor has the dtype and shape that the input takes."""
    if dtype != spec.dtype or len(shape) != len(spec.shape) or not all(map(fits, spec.shape, shape)):
        shape_taken = f"[{', '.join(map(_spelled, spec.shape))}]"
        expected, got = (str(kind).removeprefix("torch.") for kind in (spec.dtype, dtype))
        raise InvalidSamples(
            "dataset_does_not_fit",
            f"Tensor {spec.name!r}: expected {expected} {shape_taken}, got {got} {list(shape)}.",
            "Give each call as the model takes it: every item is one call, its batch dimension included."
            if dtype == spec.dtype
            else f"Convert it: tensor.to(torch.{expected}).",
        )


def _spelled(size: int | Dim) -> str:
    return str(size) if isinstance(size, int) else f"{size.minimum}..{size.maximum or ''}"


def require_finite(name: str, tensor: Tensor, first_row: int) -> None:
    """Raise InvalidSamples naming the first value that is NaN or infinite; row 0 of `tensor` is sample `first_row`."""
    if not tensor.is_floating_point() or bool(torch.isfinite(tensor).all()):
        return
    where = (~torch.isfinite(tensor)).nonzero()[0].tolist()
    if where:
        where[0] += first_row
    raise InvalidSamples(
        "non_finite_samples",
        f"Tensor {name!r} holds NaN or infinity, first at index {where}.",
        "Remove or repair these samples and try again.",
    )
