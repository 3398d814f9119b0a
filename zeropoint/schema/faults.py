"""Turn pydantic's findings about data from outside into words: a JSON pointer and a phrase. Torch-free.

No text of a library reaches a user.
"""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from pydantic import ValidationError

WORDS: Mapping[str, str] = {
    "json_invalid": "is not valid JSON",
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
"""What is wrong at a place, by the type of pydantic's error."""


class Fault(NamedTuple):
    """One place that is wrong: a JSON pointer ("" is the whole document) and a phrase."""

    pointer: str
    detail: str


def first_fault(error: ValidationError) -> Fault:
    """Return the first fault that validation found."""
    first = error.errors(include_url=False, include_input=False)[0]
    return Fault(pointer_to(first["loc"]), words_for(first))


def pointer_to(steps: Iterable[object]) -> str:
    """Return the JSON pointer (RFC 6901) of a place; each step is cut to 128 characters."""
    return "".join("/" + str(step).replace("~", "~0").replace("/", "~1")[:128] for step in steps)


def words_for(error: Mapping[str, Any]) -> str:
    """Return the phrase for one of pydantic's errors."""
    words = WORDS.get(error["type"], "is not valid")
    return words.format_map(error.get("ctx", {}))
