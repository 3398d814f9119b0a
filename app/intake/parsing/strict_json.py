"""JSON from an upload: size, depth, repeated keys and odd numbers are checked before or while it is read."""

import json
from collections.abc import Callable
from typing import Any

MAX_DEPTH = 64

_NOT_BRACKETS = bytes(byte for byte in range(256) if byte not in b"[]{}")

Refuse = Callable[[str], Exception]


def read_json(data: bytes, refuse: Refuse, max_values: int | None = None) -> Any:
    """Parse bytes. `refuse` turns a detail, such as "has a key twice", into the error to raise.

    A value of one byte becomes an object of a hundred; `max_values` bounds what is built.
    """
    if max_values is not None and _most_values(data) > max_values:
        raise refuse(f"holds more than {max_values} values")
    if _depth(data) > MAX_DEPTH:
        raise refuse(f"is nested deeper than {MAX_DEPTH} levels")
    try:
        return json.loads(
            data.decode("utf-8"),
            object_pairs_hook=lambda pairs: _unique(pairs, refuse),
            parse_constant=lambda name: _no_constant(name, refuse),
        )
    except (UnicodeDecodeError, ValueError, RecursionError):
        raise refuse("is not valid JSON in UTF-8") from None


def _most_values(data: bytes) -> int:
    """Return a bound that is quick to have; what stands inside of strings counts too."""
    return max(data.count(b",") + data.count(b"[") + data.count(b"{"), data.count(b'"') // 4)


def _depth(data: bytes) -> int:
    """Return the deepest nesting without building anything: brackets that stand outside of strings."""
    outside = b"".join(_without_escapes(data).split(b'"')[::2])
    depth = deepest = 0
    for byte in outside.translate(None, delete=_NOT_BRACKETS):
        depth += 1 if byte in b"[{" else -1
        deepest = max(deepest, depth)
    return deepest


def _without_escapes(data: bytes) -> bytes:
    return data.replace(b"\\\\", b"").replace(b'\\"', b"")


def _unique(pairs: list[tuple[str, Any]], refuse: Refuse) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise refuse("has a key twice in one object")
    return found


def _no_constant(name: str, refuse: Refuse) -> Any:
    raise refuse(f"holds {name}, which is not a JSON number")
