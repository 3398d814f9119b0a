"""Honest files, damaged: what a reader of uploads must refuse with one kind of error or take."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from app.errors import Invalid

SETTINGS = settings(
    max_examples=250,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)

ODD_VALUES: list[Any] = [
    None,
    True,
    -1,
    0,
    2**63,
    2**70,
    1e308,
    0.5,
    "",
    "../x",
    "x\0",
    "__import__('os')",
    [],
    {},
    [[]],
    {"a": {}},
    ["F32"],
    "é\u2028",
]


@st.composite
def damaged(draw: st.DrawFn, data: bytes) -> bytes:
    """Some bytes replaced, removed or put in; most often near the beginning or the end, where formats speak."""
    result = bytearray(data)
    for _ in range(draw(st.integers(1, 4))):
        ends = st.integers(0, min(128, len(result))) | st.integers(max(0, len(result) - 128), len(result))
        place = draw(ends | st.integers(0, len(result)))
        size = draw(st.sampled_from([0, 1, 1, 1, 2, 8, 40]))
        result[place : place + size] = draw(
            st.sampled_from([b"", b"\0", b"\xff", b"\xff" * 8, b"{", b'"', b"9"]) | st.binary(min_size=1, max_size=4)
        )
    return bytes(result)


@st.composite
def damaged_json(draw: st.DrawFn, document: Any) -> bytes:
    """A document in which a value or a key somewhere is another one."""
    result = json.loads(json.dumps(document))
    for _ in range(draw(st.integers(1, 3))):
        places = list(_places(result))
        if not places:
            break
        holder, key = draw(st.sampled_from(places))
        odd = draw(st.sampled_from(ODD_VALUES) | st.text(max_size=8) | st.integers(-4, 400))
        if isinstance(holder, dict) and draw(st.booleans()):
            holder[str(odd)] = holder.pop(key)
        else:
            holder[key] = json.loads(json.dumps(odd))
    return json.dumps(result).encode()


def taken_or_refused(read: Callable[[Path], object], path: Path, data: bytes) -> None:
    """Raise whatever `read` raises but Invalid."""
    path.write_bytes(data)
    try:
        read(path)
    except Invalid as refusal:
        assert refusal.detail.isprintable()  # noqa: PT017 - either end is fine


def _places(document: Any) -> Any:
    items = (
        document.items() if isinstance(document, dict) else enumerate(document) if isinstance(document, list) else []
    )
    for key, value in list(items):
        yield document, key
        yield from _places(value)
