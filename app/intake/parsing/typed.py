"""Typed reading: a check takes a parsed JSON value and returns a fresh value of its type, or raises Wrong.

Results are built only by checks: a key or a character that no check names can't pass through. Containers prefix their
key to the location of an error inside them: `node 17: inputs/2/arg`.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any

Check = Callable[[Any], Any]


class Wrong(Exception):
    """What is wrong, and where: the keys that lead there, outermost first."""

    def __init__(self, detail: str, *path: str) -> None:
        super().__init__(detail)
        self.detail = detail
        self.path = list(path)


def inside(key: object, check: Check, value: Any) -> Any:
    """Return the checked value; `key` is prefixed to the location of an error in it."""
    try:
        return check(value)
    except Wrong as wrong:
        wrong.path.insert(0, str(key))
        raise


def integer(low: int, high: int) -> Check:
    """Return a check for an int (not a bool) within bounds."""

    def check(value: Any) -> int:
        if type(value) is not int:
            raise Wrong("must be an integer")
        if not low <= value <= high:
            raise Wrong(f"must lie within {low}..{high}")
        return value

    return check


def boolean(value: Any) -> bool:
    """Check for true or false. Raises Wrong."""
    if type(value) is not bool:
        raise Wrong("must be true or false")
    return value


def text(pattern: str, what: str) -> Check:
    """Return a check for a string that the whole pattern matches; `what` describes it in messages."""
    compiled = re.compile(pattern)

    def check(value: Any) -> str:
        if type(value) is not str or compiled.fullmatch(value) is None:
            raise Wrong(f"must be {what}")
        return str(value)

    return check


def one_of(*allowed: object) -> Check:
    """Return a check for one of these values, of the same type."""

    def check(value: Any) -> Any:
        for candidate in allowed:
            if type(value) is type(candidate) and value == candidate:
                return candidate
        raise Wrong(f"must be one of {', '.join(map(str, allowed))}")

    return check


def nullable(check: Check) -> Check:
    """Return a check for null, or a value that `check` accepts."""
    return lambda value: None if value is None else check(value)


def list_of(check: Check, most: int, item: str = "") -> Check:
    """Return a check for a list of at most `most` items; `item` names one in a location: `node 17`."""

    def read(value: Any) -> list[Any]:
        if type(value) is not list:
            raise Wrong("must be a list")
        if len(value) > most:
            raise Wrong(f"has {len(value)} items; at most {most} are accepted")
        return [inside(f"{item} {position}".lstrip(), check, entry) for position, entry in enumerate(value)]

    return read


def dict_of(key: Check, check: Check, most: int) -> Check:
    """Return a check for an object whose keys are data too."""

    def read(value: Any) -> dict[str, Any]:
        if type(value) is not dict:
            raise Wrong("must be an object")
        if len(value) > most:
            raise Wrong(f"has {len(value)} entries; at most {most} are accepted")
        return {key(name): inside(name, check, entry) for name, entry in value.items()}

    return read


def record(
    fields: dict[str, Check], ignored: Iterable[str] = (), absent: Mapping[str, Any] = MappingProxyType({})
) -> Check:
    """Return a check for an object with these keys and no others.

    `ignored` ones are allowed and dropped. `absent` has the values of keys that older writers don't know. A key that
    nobody knows is dropped too if it says nothing: null, or empty.
    """
    known = {*fields, *ignored}

    def read(value: Any) -> dict[str, Any]:
        if type(value) is not dict:
            raise Wrong("must be an object")
        if any(value[key] not in (None, [], {}) for key in value.keys() - known):
            raise Wrong("has a key that no known torch writes")
        missing = fields.keys() - value.keys() - absent.keys()
        if missing:
            raise Wrong(f"lacks {min(missing)}")
        filled = {**absent, **value}
        return {name: inside(name, check, filled[name]) for name, check in fields.items()}

    return read


def union(kinds: dict[str, Check]) -> Check:
    """Return a check for an object with exactly one of these keys, which is how torch writes a choice."""

    def read(value: Any) -> dict[str, Any]:
        if type(value) is not dict or len(value) != 1:
            raise Wrong("must be an object with one key")
        (kind, content), *_ = value.items()
        if kind not in kinds:
            raise Wrong(f"must be one of {', '.join(kinds)}")
        return {kind: inside(kind, kinds[kind], content)}

    return read
