"""Texts for errors in a request: no text of a library reaches a client."""

from collections.abc import Iterable, Mapping
from typing import Any

from app.errors import Fault
from zeropoint.schema.faults import pointer_to, words_for


def faults_of(errors: Iterable[Mapping[str, Any]]) -> list[Fault]:
    """Return each error with its place: a JSON pointer into the body, or /query/name, /header/name, /path/name."""
    return [_fault(error) for error in errors]


def _fault(error: Mapping[str, Any]) -> Fault:
    where, *rest = error["loc"]
    return Fault(pointer_to(rest if where == "body" else [where, *rest]) or "/", words_for(error))
