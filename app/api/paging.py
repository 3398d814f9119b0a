"""Cursors: opaque to the caller, the last id of a page to us."""

import base64
import binascii
import re
from collections.abc import Sequence
from typing import Annotated, Protocol

from fastapi import Depends, Query

from app.errors import Fault, Invalid

_ID = re.compile(r"[a-z]{3}_[0-9a-f]{1,60}")

WordQuery = Annotated[str | None, Query(max_length=64, pattern=r"^[^\x00]*$")]
LimitQuery = Annotated[int, Query(ge=1, le=100, description="How many to return at most.")]


class Identified(Protocol):
    @property
    def id(self) -> str: ...


def encode(last_id: str) -> str:
    """Return the cursor of the page behind an id."""
    return base64.urlsafe_b64encode(last_id.encode()).decode().rstrip("=")


def decode(
    cursor: Annotated[str | None, Query(max_length=128, description="next_cursor of the page before.")] = None,
) -> str | None:
    """Return the id that a cursor stands for. Raises Invalid."""
    if cursor is None:
        return None
    try:
        last_id = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode("ascii")
    except (binascii.Error, ValueError):
        last_id = ""
    if not _ID.fullmatch(last_id):
        raise Invalid(
            "cursor_invalid",
            "The cursor is not one that a list returned.",
            "Take next_cursor from the page before, or leave it out for the first page.",
            [Fault("/query/cursor", "is not a cursor")],
        )
    return last_id


BeforeDep = Annotated[str | None, Depends(decode)]


def next_cursor(rows: Sequence[Identified], limit: int) -> str | None:
    """Return the cursor behind a page; None when the page was not full."""
    return encode(rows[-1].id) if len(rows) == limit else None
