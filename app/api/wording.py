"""Texts for errors in a request: no text of a library reaches a client."""

from collections.abc import Iterable, Mapping
from functools import cache
from itertools import islice
from typing import Any

from app.api.requests import (
    DELIVERY_PATTERN,
    NUMBER_PATTERN,
    SEEN_PATTERN,
    UPLOAD_PATTERN,
    WORD_PATTERN,
    JobRequest,
    SweepRequest,
)
from app.errors import MOST_FAULTS, Fault
from app.webhooks.signing import SECRET_PATTERN
from zeropoint.schema.faults import keys_of, pointer_to, words_for

NO_ID = (
    "is not an id: these look like {prefix}_0123abcd, and GET /v1/{kind}s lists them; a name stands with its version, "
    "such as encoder@3 or encoder@latest"
)
NO_RECIPE_KEY = "is not a key of a recipe: a preset's name is given in place of the recipe, as preset"
NO_RECIPE = "must be an object; the name of a preset is given as preset, in place of recipe"
UNSEEN_CHARACTERS = "has characters that can't be seen, or that change how others are shown"
NO_BODY = "is missing: send a JSON object, as Content-Type: application/json"
OF_PATTERNS: Mapping[str, str] = {
    SEEN_PATTERN: UNSEEN_CHARACTERS,
    WORD_PATTERN: "must be letters, digits and punctuation of ASCII, without spaces",
    NUMBER_PATTERN: "must be a whole number of bytes",
    SECRET_PATTERN: "must be whsec_ and 24 to 64 bytes in base64",
    DELIVERY_PATTERN: "is not an id: these look like dlv_0123abcd, and the webhook's deliveries have them",
}
"""What a text must be, by the pattern that it does not match."""


def faults_of(errors: Iterable[Mapping[str, Any]]) -> list[Fault]:
    """Return each error with its place: a JSON pointer into the body, or /query/name, /header/name, /path/name.

    The first MOST_FAULTS alone: a near name is looked for each of them.
    """
    return [_fault(error) for error in islice(errors, MOST_FAULTS)]


def _fault(error: Mapping[str, Any]) -> Fault:
    where, *rest = error["loc"]
    pointer = pointer_to(rest if where == "body" else [where, *rest])
    if error["type"] == "string_pattern_mismatch" and error["ctx"]["pattern"] == UPLOAD_PATTERN:
        kind = "dataset" if rest[-1] in ("dataset", "evaluation_dataset") else "model"
        return Fault(pointer, NO_ID.format(prefix={"model": "mdl", "dataset": "dts"}[kind], kind=kind))
    if error["type"] == "string_pattern_mismatch" and error["ctx"]["pattern"] in OF_PATTERNS:
        return Fault(pointer, OF_PATTERNS[error["ctx"]["pattern"]])
    if error["type"] == "extra_forbidden" and rest[-2:] == ["recipe", "preset"]:
        return Fault(pointer, NO_RECIPE_KEY)
    if rest[-1:] == ["recipe"] and isinstance(error.get("input"), str):
        return Fault(pointer, NO_RECIPE)
    if error["type"] == "missing" and not pointer:
        return Fault("/", NO_BODY)
    if error["type"] == "model_attributes_type" and not pointer:
        return Fault("/", f"{words_for(error)}, sent as Content-Type: application/json")
    return Fault(pointer or "/", words_for(error, _known_keys()))


@cache
def _known_keys() -> frozenset[str]:
    return keys_of(JobRequest, SweepRequest)
