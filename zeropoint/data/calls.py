"""Calls: calibration data in memory. Every item of the user's iterable is one call of the model.

A tensor is the only argument, a tuple or list holds positional arguments, a dict keyword arguments. The first
dimension of the first tensor counts the samples. What a loader yields is taken as it is: `(inputs, labels)` is a call
with two arguments, for nobody can know that the second one is not the model's.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from torch import Tensor

from zeropoint.data.batches import Input, ModelInputs, require_finite, require_names, require_shape
from zeropoint.errors import InvalidSamples

EVERY = 4
"""Without evaluation data, each fourth call is kept out of calibration …"""
MAX_HELD_OUT_CALLS = 8
"""… until this many are: they are held in memory."""


def read_inputs(item: object) -> ModelInputs:
    """One item of calibration data for a module. Raises InvalidSamples when it holds anything but tensors."""
    keywords = list(item) if isinstance(item, Mapping) else []
    values = list(item.values()) if isinstance(item, Mapping) else _positional(item)
    tensors: list[Tensor] = []
    for position, value in enumerate(values):
        if not isinstance(value, Tensor):
            raise InvalidSamples(
                "calibration_item_invalid",
                f"Argument {keywords[position] if keywords else position!r} of a call is "
                f"{type(value).__name__}, not a tensor.",
                "Give each call as a tensor, or a tuple or dict of tensors; fix other arguments in a wrapper.",
            )
        tensors.append(value)
    if not tensors:
        raise InvalidSamples("calibration_item_invalid", "A call holds no tensor.", "Leave empty items out.")
    return ModelInputs(tensors, keywords)


def reader_for(inputs: tuple[Input, ...]) -> Callable[[object], ModelInputs]:
    """Reads items for a program: its inputs by name or in their order, with their dtypes and shapes."""

    def read(item: object) -> ModelInputs:
        call = read_inputs(item)
        named = dict(zip(call.names, call, strict=True))
        if not call.keywords and len(call) == len(inputs):
            named = dict(zip((spec.name for spec in inputs), call, strict=True))
        require_names({name: tuple(tensor.shape) for name, tensor in named.items()}, inputs)
        for spec in inputs:
            require_shape(spec, tuple(named[spec.name].shape), named[spec.name].dtype)
        return ModelInputs((named[spec.name] for spec in inputs), [spec.name for spec in inputs])

    return read


class IterableBatches:
    """Calls that are in memory anyway, or that one pass over the user's iterable gives; each is checked as it comes."""

    def __init__(self, items: Iterable[object], read: Callable[[object], ModelInputs]) -> None:
        self._items = items
        self._read = read
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
        """Raises InvalidSamples on NaN, infinity, or an item that is no call."""
        self.count = self.batch_size = 0
        for item in self._items:
            call = self._read(item)
            for name, tensor in zip(call.names, call, strict=True):
                require_finite(name, tensor, self.count)
            self.count += call.samples
            self.batch_size = max(self.batch_size, call.samples)
            yield call


class CalibrationStream(IterableBatches):
    """One pass that calibrates and keeps some calls out on its way; never more than a few are in memory.

    It ends after `wanted` calibration samples, so a generator without an end serves too.
    """

    def __init__(
        self, items: Iterable[object], read: Callable[[object], ModelInputs], wanted: int, *, hold_out: bool
    ) -> None:
        super().__init__(items, read)
        self._wanted = wanted
        self._hold_out = hold_out
        self._done = 0
        self._over = False
        self.held_out: list[ModelInputs] = []
        self.first: list[ModelInputs] = []
        """Calibration calls that a stream too short to keep any out can be evaluated on."""

    def __len__(self) -> int:
        """Calls to calibrate with, as far as can be told: exact at the end, 0 while it is not known."""
        if self._over:
            return self._done
        known = super().__len__()
        kept = min(known // EVERY, MAX_HELD_OUT_CALLS) if self._hold_out else 0
        bound = -(-self._wanted // self.batch_size) if self.batch_size else known
        return max(self._done, min(known - kept, bound)) if known else 0

    def __iter__(self) -> Iterator[ModelInputs]:
        """Raises InvalidSamples when there is no call at all."""
        used = largest = 0
        for number, call in enumerate(super().__iter__(), start=1):
            if self._hold_out and number % EVERY == 0 and len(self.held_out) < MAX_HELD_OUT_CALLS:
                self.held_out.append(call)
                self.first = []
                continue
            if self._hold_out and not self.held_out:
                self.first.append(call)
            used += call.samples
            largest = max(largest, call.samples)
            self._done += 1
            yield call
            if used >= self._wanted:
                break
        self.count, self.batch_size, self._over = used, largest, True
        if not self._done:
            raise InvalidSamples(
                "dataset_empty",
                "The calibration data holds no item.",
                "Give at least one call; a generator that was read before is empty.",
            )


class KeptBatches(IterableBatches):
    """Calls of a stream that was read to its end, for what runs them more than once."""

    def __init__(self, calls: Sequence[ModelInputs], stream: CalibrationStream) -> None:
        super().__init__(calls, _as_it_is)
        self.count = sum(call.samples for call in calls)
        self.batch_size = max(call.samples for call in calls)
        self.held_out, self.first = stream.held_out, stream.first


def split_stream(stream: CalibrationStream) -> tuple[KeptBatches, KeptBatches]:
    """The stream's calibration calls, and each fourth of them apart; of a single call both are that one."""
    calls = list(stream)
    acceptance = calls[EVERY - 1 :: EVERY] or calls[-1:]
    calibration = [call for call in calls if not any(call is other for other in acceptance)] or acceptance
    return KeptBatches(calibration, stream), KeptBatches(acceptance, stream)


def _as_it_is(item: object) -> ModelInputs:
    assert isinstance(item, ModelInputs)
    return item


def _positional(item: object) -> list[object]:
    return list(item) if isinstance(item, tuple | list) else [item]
