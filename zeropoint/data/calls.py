"""Calls: calibration data in memory. Every item of the user's iterable is one call of the model.

A tensor is the only argument, a tuple or list holds positional arguments, a dict keyword arguments; what the model
doesn't take is left out (`data.items`). The first dimension of the first tensor counts the samples.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Self

import torch
from torch import Tensor, nn

from zeropoint.data.batches import Input, ModelInputs, Samples, require_finite, require_names, require_shape
from zeropoint.data.items import ModelInputsChoice, read_item, signature_of, signature_of_inputs
from zeropoint.data.rows import may_be_reused
from zeropoint.errors import InvalidSamples


def read_inputs(item: object) -> ModelInputs:
    """Return one item as a call of a model that takes anything. Raises InvalidSamples."""
    return read_item(item)


def reader_for_module(module: nn.Module, choice: ModelInputsChoice | None = None) -> Callable[[object], ModelInputs]:
    """Reads items for a module: what its `forward` takes, or what `choice` says."""
    return partial(read_item, signature=signature_of(module), choice=choice)


def reader_for(inputs: tuple[Input, ...], choice: ModelInputsChoice | None = None) -> Callable[[object], ModelInputs]:
    """Reads items for a program: its inputs by name or in their order, with their dtypes and shapes."""
    signature = signature_of_inputs(inputs)

    def read(item: object) -> ModelInputs:
        call = read_item(item, signature, choice)
        named = dict(zip(call.names, call, strict=True))
        if not call.keywords and len(call) == len(inputs):
            named = dict(zip((spec.name for spec in inputs), call, strict=True))
        require_names({name: tuple(tensor.shape) for name, tensor in named.items()}, inputs)
        for spec in inputs:
            require_shape(spec, tuple(named[spec.name].shape), named[spec.name].dtype)
        return ModelInputs((named[spec.name] for spec in inputs), [spec.name for spec in inputs], call.labels)

    return read


class IterableBatches:
    """Calls of the user's iterable, one in memory at a time; each is checked as it comes."""

    def __init__(self, items: Iterable[object], read: Callable[[object], ModelInputs]) -> None:
        self._items = items
        self._read = read
        self._reused = may_be_reused(items)
        self.batch_size = 0
        """Samples of the largest call so far."""
        self.count = 0
        """Samples of all calls so far."""

    def __len__(self) -> int:
        """How many calls there will be; 0 when the iterable doesn't say."""
        try:
            return len(self._items)  # type: ignore[arg-type]
        except TypeError:
            return 0

    def __iter__(self) -> Iterator[ModelInputs]:
        """Raises InvalidSamples on NaN, infinity, an item that is no call, or when there is no sample."""
        self.count = self.batch_size = 0
        for item in self._items:
            call = self._read(item)
            for name, tensor in zip(call.names, call, strict=True):
                require_finite(name, tensor, self.count)
            self.count += call.samples
            self.batch_size = max(self.batch_size, call.samples)
            yield _copied(call) if self._reused else call
        if self.count == 0:
            raise InvalidSamples(
                "dataset_empty",
                "The data holds no sample.",
                "Give at least one call; a generator that was read before is empty.",
            )

    def changed(self, change: Callable[[ModelInputs], ModelInputs]) -> Self:
        """Return the same calls, each changed as it comes."""
        return type(self)(self._items, lambda item: change(self._read(item)))

    def kept(self) -> Self:
        """Return the same calls, held in memory to be read repeatedly."""
        return type(self)(list(self), _as_it_is)


@dataclass(frozen=True, kw_only=True)
class CallDataset(Samples):
    """Calls in memory, cut between samples as a dataset on disk is.

    A call whose tensors don't all have the same first dimension can't be cut: it belongs where its first sample does.
    """

    calls: tuple[ModelInputs, ...]

    @cached_property
    def count(self) -> int:
        return sum(len(rows) for batch in self._batches for _, rows in batch)

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[ModelInputs]:
        for batch in self._batches:
            parts = [_cut(self.calls[number], rows) for number, rows in batch]
            whole = parts[0] if len(parts) == 1 else [torch.cat(column) for column in zip(*parts, strict=True)]
            first = self.calls[batch[0][0]]
            yield ModelInputs(whole[: len(first)], first.keywords, *whole[len(first) :])

    @cached_property
    def _batches(self) -> list[list[tuple[int, range]]]:
        """Batches as parts: the number of a call, and which of its samples. Only calls of one form share a batch."""
        batches: list[list[tuple[int, range]]] = []
        form, room = None, 0
        for number, rows in self._parts():
            call = self.calls[number]
            while rows:
                if room == 0 or _form(call) is None or _form(call) != form:
                    batches.append([])
                    form, room = _form(call), self.batch_size
                taken = rows if form is None else rows[:room]
                batches[-1].append((number, taken))
                rows, room = rows[len(taken) :], room - len(taken)
        return [batch for batch in batches if self._is_taken(batch)]

    def _is_taken(self, batch: list[tuple[int, range]]) -> bool:
        """Return whether the model takes the batch: a call that can't be cut is what the user gave."""
        whole = _form(self.calls[batch[0][0]]) is None
        return whole or sum(len(rows) for _, rows in batch) >= self.smallest_batch

    def _parts(self) -> Iterator[tuple[int, range]]:
        """Give the number of each call with samples in [start, stop), and which of them."""
        first = 0
        for number, call in enumerate(self.calls):
            rows = range(call.samples)
            if _form(call) is not None:
                yield number, rows[max(self.start - first, 0) : max(self.stop - first, 0)]
            elif self.start <= first < self.stop:
                yield number, rows
            first += call.samples


def read_calls(
    items: Iterable[object], read: Callable[[object], ModelInputs], most: int, smallest_batch: int = 1
) -> CallDataset:
    """Read calls until they hold `most` samples, so that a generator without an end serves too.

    Batches have the size of the largest call. Raises InvalidSamples when there is no sample, or a value isn't finite.
    """
    stream, calls = IterableBatches(items, read), list[ModelInputs]()
    for call in stream:
        calls.append(call)
        if stream.count >= most:
            break
    return CallDataset(
        start=0, stop=stream.count, batch_size=stream.batch_size, smallest_batch=smallest_batch, calls=tuple(calls)
    )


def _form(call: ModelInputs) -> object:
    """Return what calls must have in common to share a batch; None for a call that can't be cut between samples."""
    columns = _columns(call)
    if any(tensor.dim() == 0 or len(tensor) != call.samples for tensor in columns):
        return None
    return call.keywords, tuple((tensor.dtype, tensor.device, tensor.shape[1:]) for tensor in columns)


def _cut(call: ModelInputs, rows: range) -> Sequence[Tensor]:
    """Return these rows of a call's tensors, and behind them of its labels, if it has any."""
    columns = _columns(call)
    return columns if len(rows) == call.samples else [tensor[rows.start : rows.stop] for tensor in columns]


def _columns(call: ModelInputs) -> Sequence[Tensor]:
    return [*call] if call.labels is None else [*call, call.labels]


def _copied(call: ModelInputs) -> ModelInputs:
    """Return a copy: a generator may fill the same memory with its next item."""
    labels = None if call.labels is None else call.labels.clone()
    return ModelInputs((tensor.clone() for tensor in call), call.keywords, labels)


def _as_it_is(item: object) -> ModelInputs:
    assert isinstance(item, ModelInputs)
    return item
