"""A machine for the opcodes that pickle writes for state dicts. It builds inert values, and imports and calls nothing.

An opcode that is not in the table is refused. Memory is bounded before it is taken: by the bytes that are there, by
MAX_BYTES of them, and by MAX_VALUES steps, which a call that copies its arguments takes for each entry. Lists may hold
themselves; who reads the value must bound the depth.
"""

import struct
from collections.abc import Callable, Mapping
from typing import Protocol

from app.intake.parsing.typed import Wrong
from app.intake.pickles.rebuilding import is_known, rebuild, storage_of
from app.intake.pickles.values import Foreign, Global, Pickle

MAX_BYTES = 64 * 2**20
MAX_VALUES = 4_000_000
MAX_TEXT_BYTES = 2**20
MAX_NAME_BYTES = 256
NEWEST_PROTOCOL = 5

_MISSING = "takes a value from its stack that is not there"


class Readable(Protocol):
    """What a pickle is read from."""

    def read(self, size: int, /) -> bytes:
        """Return the next bytes, fewer only at the end."""

    def readline(self, size: int, /) -> bytes:
        """Return the next bytes up to a line's end, at most `size`."""


def read_pickle(source: Readable) -> Pickle:
    """Read one pickle, up to its last byte. Raises Wrong."""
    return _Machine(source).run()


class _Machine:
    """One run: the stack, the stacks below it at each mark, and what was memorized."""

    def __init__(self, source: Readable) -> None:
        self.source = source
        self.left = MAX_BYTES
        self.steps = MAX_VALUES
        self.stack: list[object] = []
        self.below: list[list[object]] = []
        self.memo: dict[int, object] = {}
        self.result = Pickle()

    def run(self) -> Pickle:
        while True:
            self.spend(1)
            opcode = self.take(1)
            if opcode == b".":
                self.result.value = self.pop()
                return self.result
            step = _STEPS.get(opcode)
            if step is None:
                raise Wrong(f"has the opcode 0x{opcode.hex()}, which torch.save doesn't write")
            step(self)

    def spend(self, steps: int) -> None:
        self.steps -= steps
        if self.steps < 0:
            raise Wrong(f"takes more than {MAX_VALUES} steps to read")

    def take(self, size: int) -> bytes:
        """Return the next bytes; the check comes before the bytes are read."""
        self.left -= size
        if self.left < 0:
            raise Wrong(f"has more than {MAX_BYTES} bytes")
        data = self.source.read(size)
        if len(data) != size:
            raise Wrong("is cut off")
        return data

    def number(self, layout: str) -> int:
        (value,) = struct.unpack(layout, self.take(struct.calcsize(layout)))
        return int(value)

    def text(self, size: int) -> str:
        if size > MAX_TEXT_BYTES:
            raise Wrong(f"has a text of {size} bytes; at most {MAX_TEXT_BYTES} are read")
        try:
            return self.take(size).decode("utf-8")
        except UnicodeDecodeError:
            raise Wrong("has a text that is not UTF-8") from None

    def line(self) -> str:
        data = self.source.readline(MAX_NAME_BYTES)
        self.left -= len(data)
        if not data.endswith(b"\n") or not data.isascii():
            raise Wrong("names something with more than plain characters")
        return data[:-1].decode("ascii")

    def push(self, value: object) -> None:
        self.stack.append(value)

    def pop(self) -> object:
        if not self.stack:
            raise Wrong(_MISSING)
        return self.stack.pop()

    def top(self) -> object:
        if not self.stack:
            raise Wrong(_MISSING)
        return self.stack[-1]

    def last(self, count: int) -> tuple[object, ...]:
        if len(self.stack) < count:
            raise Wrong(_MISSING)
        values = tuple(self.stack[-count:])
        del self.stack[-count:]
        return values

    def since_mark(self) -> list[object]:
        if not self.below:
            raise Wrong(_MISSING)
        values, self.stack = self.stack, self.below.pop()
        return values

    def mark(self) -> None:
        self.below.append(self.stack)
        self.stack = []

    def put(self, place: int) -> None:
        self.memo[place] = self.top()

    def get(self, place: int) -> None:
        if place not in self.memo:
            raise Wrong("refers to a value that it hasn't written")
        self.push(self.memo[place])

    def name(self, module: str, name: str) -> None:
        value = Global(module, name)
        if not is_known(value):
            self.result.foreign.append(Foreign(value.shown))
        self.push(value)

    def name_of_stack(self) -> None:
        match self.last(2):
            case (str(module), str(name)):
                self.name(module, name)
            case _:
                raise Wrong("names something by what is no text")

    def call(self) -> None:
        match self.last(2):
            case (Global() as function, tuple(arguments)):
                # a few bytes can refer to the same long list again and again
                self.spend(sum(len(value) for value in arguments if isinstance(value, list | dict | tuple)))
                self.push(self.noted(rebuild(function, arguments)))
            case _:
                raise Wrong("calls something that it doesn't name")

    def new_object(self) -> None:
        match self.last(2):
            case (Global() as kind, tuple()):
                self.push(self.noted(Foreign(f"an object of {kind.shown}")))
            case _:
                raise Wrong("makes an object of something that it doesn't name")

    def persistent(self) -> None:
        self.push(self.noted(storage_of(self.pop())))

    def noted(self, value: object) -> object:
        if isinstance(value, Foreign):
            self.result.foreign.append(value)
        return value

    def build(self) -> None:
        """Leave out the attributes of a dict, which torch calls `_metadata`, and those of what is refused anyway."""
        _, value = self.last(2)[::-1]
        if not isinstance(value, dict | Foreign):
            raise Wrong("sets attributes of what has none")
        self.push(value)

    def append(self, values: list[object]) -> None:
        match self.top():
            case list() as target:
                target.extend(values)
            case Foreign():
                pass
            case _:
                raise Wrong("appends to what is no list")

    def set_items(self, values: list[object]) -> None:
        target, keys = self.top(), values[::2]
        if isinstance(target, Foreign):
            return
        if not isinstance(target, dict) or len(values) % 2 or not all(map(_is_key, keys)):
            raise Wrong("sets an entry of what is no dict, or under a key that is neither text nor a number of 61 bits")
        target.update(zip(keys, values[1::2], strict=True))


_KEYS = (str, float, bool, type(None))


def _is_key(key: object) -> bool:
    """Return whether a dict takes a key at once: tuples could take for ever to hash, large numbers share a hash."""
    return type(key) in _KEYS or (type(key) is int and abs(key) < 2**61 - 1)


def _protocol(machine: _Machine) -> None:
    if machine.number("<B") > NEWEST_PROTOCOL:
        raise Wrong("is of a protocol that isn't known")


def _frame(machine: _Machine) -> None:
    machine.take(8)  # the length of a frame: all the bytes come from one source


def _float(machine: _Machine) -> None:
    machine.push(struct.unpack(">d", machine.take(8))[0])


_STEPS: Mapping[bytes, Callable[[_Machine], None]] = {
    b"\x80": _protocol,
    b"\x95": _frame,
    b"(": _Machine.mark,
    b"N": lambda m: m.push(None),
    b"\x88": lambda m: m.push(True),
    b"\x89": lambda m: m.push(False),
    b"J": lambda m: m.push(m.number("<i")),
    b"K": lambda m: m.push(m.number("<B")),
    b"M": lambda m: m.push(m.number("<H")),
    b"\x8a": lambda m: m.push(int.from_bytes(m.take(m.number("<B")), "little", signed=True)),
    b"G": _float,
    b"X": lambda m: m.push(m.text(m.number("<I"))),
    b"\x8c": lambda m: m.push(m.text(m.number("<B"))),
    b"T": lambda m: m.push(m.text(m.number("<I"))),
    b"U": lambda m: m.push(m.text(m.number("<B"))),
    b"]": lambda m: m.push([]),
    b"a": lambda m: m.append([m.pop()]),
    b"e": lambda m: m.append(m.since_mark()),
    b")": lambda m: m.push(()),
    b"\x85": lambda m: m.push(m.last(1)),
    b"\x86": lambda m: m.push(m.last(2)),
    b"\x87": lambda m: m.push(m.last(3)),
    b"t": lambda m: m.push(tuple(m.since_mark())),
    b"}": lambda m: m.push({}),
    b"s": lambda m: m.set_items(list(m.last(2))),
    b"u": lambda m: m.set_items(m.since_mark()),
    b"q": lambda m: m.put(m.number("<B")),
    b"r": lambda m: m.put(m.number("<I")),
    b"\x94": lambda m: m.put(len(m.memo)),
    b"h": lambda m: m.get(m.number("<B")),
    b"j": lambda m: m.get(m.number("<I")),
    b"c": lambda m: m.name(m.line(), m.line()),
    b"\x93": _Machine.name_of_stack,
    b"R": _Machine.call,
    b"\x81": _Machine.new_object,
    b"b": _Machine.build,
    b"Q": _Machine.persistent,
}
"""Opcode -> what it does. Not on it, among others: those of protocol 0, of classes by their instance, of extensions."""
