"""Texts for errors in a request: no text of a library reaches a client."""

from collections.abc import Iterable, Mapping
from typing import Any

from app.errors import Fault

WORDS = {
    "missing": "is missing",
    "extra_forbidden": "is not a known key",
    "literal_error": "must be {expected}",
    "enum": "must be {expected}",
    "string_type": "must be a string",
    "string_too_short": "must have at least {min_length} characters",
    "string_too_long": "must have at most {max_length} characters",
    "string_pattern_mismatch": "has characters that are not allowed here",
    "string_unicode": "is not valid Unicode",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_parsing_size": "is out of range",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "finite_number": "must be finite",
    "bool_type": "must be true or false",
    "greater_than": "must be greater than {gt}",
    "greater_than_equal": "must be {ge} or more",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be {le} or less",
    "tuple_type": "must be a list",
    "list_type": "must be a list",
    "dict_type": "must be an object",
    "model_type": "must be an object",
    "model_attributes_type": "must be an object, sent as Content-Type: application/json",
    "union_tag_invalid": "needs {discriminator} to be one of {expected_tags}",
    "union_tag_not_found": "needs {discriminator}",
    "combination": "{reason}",
    "too_long": "must have at most {max_length} items",
    "too_short": "must have at least {min_length} items",
}


def faults_of(errors: Iterable[Mapping[str, Any]]) -> list[Fault]:
    """Return each error with its place: a JSON pointer into the body, or /query/name, /header/name, /path/name."""
    return [_fault(error) for error in errors]


def _fault(error: Mapping[str, Any]) -> Fault:
    where, *rest = error["loc"]
    steps = rest if where == "body" else [where, *rest]
    pointer = "".join("/" + str(step).replace("~", "~0").replace("/", "~1")[:128] for step in steps)
    words = WORDS.get(error["type"], "is not valid")
    return Fault(pointer or "/", words.format_map(error.get("ctx", {})))
