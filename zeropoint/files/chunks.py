"""Values kept in chunks as a long phase finds them: each checkpoint `<prefix>0001`, … holds those since the last.

It costs what the values weigh once, however long the phase takes. A pair of functions says what a value is made of.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Generic, TypeVar

from zeropoint.files.checkpoints import Checkpoints, State, Tensors

Value = TypeVar("Value")
Encode = Callable[[Value], tuple[State, Tensors]]
"""From a value to JSON and tensors by part."""
Decode = Callable[[str, State, Tensors], Value]
"""Its inverse, given the value's name; raises KeyError or ValueError when they belong to another value."""


class ChunkStore(Generic[Value]):
    """Values by name: those that an earlier attempt kept, and those that this one adds."""

    def __init__(self, checkpoints: Checkpoints, prefix: str, encode: Encode[Value], decode: Decode[Value]) -> None:
        """Begin the phase that finds the values."""
        self._checkpoints = checkpoints
        self._prefix = prefix
        self._encode = encode
        self._decode = decode
        self._kept: dict[str, Value] = {}
        self._new: dict[str, Value] = {}
        checkpoints.begin()
        self._unread = [name for name in checkpoints.names(prefix) if name.removeprefix(prefix).isdecimal()]
        self._last = int(self._unread[-1].removeprefix(prefix)) if self._unread else 0

    def read(self) -> Mapping[str, Value]:
        """Read every chunk and return the values that were kept and not taken yet, by name."""
        while self._unread:
            self._read_next()
        return self._kept

    def take(self, name: str) -> Value | None:
        """Return a value that was kept, once; None when it was not.

        Values that are taken in the order in which they were added need one chunk in memory.
        """
        while self._unread and not self._kept:
            self._read_next()
        return self._kept.pop(name, None)

    def add(self, name: str, value: Value) -> None:
        """Add a value that was found in this attempt."""
        self._new[name] = value
        if self._checkpoints.due:
            self._write()

    def close(self) -> None:
        """End the phase: if it was long, write what no chunk has yet."""
        if self._checkpoints.long:
            self._write()

    def _read_next(self) -> None:
        name = self._unread.pop(0)
        values = self._checkpoints.load(name, lambda state, tensors: unpack(state, tensors, self._decode))
        self._kept |= values or {}
        if values:
            self._checkpoints.note_resumed("quantizing")

    def _write(self) -> None:
        if self._new:
            self._last += 1
            self._checkpoints.save(f"{self._prefix}{self._last:04}", *pack(self._new.items(), self._encode))
            self._new = {}


def pack(values: Iterable[tuple[str, Value]], encode: Encode[Value]) -> tuple[dict[str, Any], Tensors]:
    """Return the state and the tensors of named values."""
    state: dict[str, Any] = {}
    tensors: dict[str, Any] = {}
    for name, value in values:
        described, parts = encode(value)
        state[name] = {"state": described, "parts": [*parts]}
        tensors |= {f"{name}.{part}": tensor for part, tensor in parts.items()}
    return state, tensors


def unpack(state: State, tensors: Tensors, decode: Decode[Value]) -> dict[str, Value]:
    """Return the named values that were packed. Raises KeyError or ValueError when they are other ones."""
    return {
        name: decode(name, entry["state"], {part: tensors[f"{name}.{part}"] for part in entry["parts"]})
        for name, entry in state.items()
    }
