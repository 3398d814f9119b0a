"""Read JSON from an upload; size, depth, repeated keys and odd numbers are checked before or while parsing."""

import json
from collections.abc import Callable
from typing import Any

MAX_DEPTH = 64

_NOT_BRACKETS = bytes(byte for byte in range(256) if byte not in b"[]{}")

Refuse = Callable[[str], Exception]


def read_json(data: bytes, refuse: Refuse, max_values: int | None = None) -> Any:
    """Parse bytes. `refuse` turns a detail, such as "has a key twice", into the error to raise.

    One byte of JSON can become an object of a hundred bytes; `max_values` bounds how many are built.
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
    """Return a quick upper bound on the number of values, which counts characters inside strings too."""
    return max(data.count(b",") + data.count(b"[") + data.count(b"{"), data.count(b'"') // 4)


def _depth(data: bytes) -> int:
    """Return the deepest nesting without building anything, from the brackets outside strings."""
    outside = b"".join(_without_escapes(data).split(b'"')[::2])
    depth = deepest = 0
    for byte in outside.translate(None, delete=_NOT_BRACKETS):
        depth += 1 if byte in b"[{" else -1
        deepest = max(deepest, depth)
    return deepest


def _without_escapes(data: bytes) -> bytes:
    return data.replace(b"\\\\", b"").replace(b'\\"', b"")


def _unique(pairs: list[tuple[str, Any]], refuse: Refuse) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        raise refuse("has a key twice in one object")
    return content


def _no_constant(name: str, refuse: Refuse) -> Any:
    raise refuse(f"holds {name}, which is not a JSON number")
