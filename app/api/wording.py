"""Texts for errors in a request: no text of a library reaches a client."""

from collections.abc import Iterable, Mapping
from functools import cache
from itertools import islice
from typing import Any

from app.api.requests import ID_PATTERN, JobRequest, SweepRequest
from app.errors import MOST_FAULTS, Fault
from zeropoint.schema.faults import keys_of, pointer_to, words_for

NO_ID = "is not an id: these look like mdl_0123abcd, and GET /v1/models, /v1/datasets and /v1/jobs list them"


def faults_of(errors: Iterable[Mapping[str, Any]]) -> list[Fault]:
    """Return each error with its place: a JSON pointer into the body, or /query/name, /header/name, /path/name.

    The first MOST_FAULTS alone: a near name is looked for each of them.
    """
    return [_fault(error) for error in islice(errors, MOST_FAULTS)]


def _fault(error: Mapping[str, Any]) -> Fault:
    where, *rest = error["loc"]
    pointer = pointer_to(rest if where == "body" else [where, *rest])
    if error["type"] == "string_pattern_mismatch" and error["ctx"]["pattern"] == ID_PATTERN:
        return Fault(pointer, NO_ID)
    if error["type"] == "model_attributes_type" and not pointer:
        return Fault("/", f"{words_for(error)}, sent as Content-Type: application/json")
    return Fault(pointer or "/", words_for(error, _known_keys()))


@cache
def _known_keys() -> frozenset[str]:
    return keys_of(JobRequest, SweepRequest)
