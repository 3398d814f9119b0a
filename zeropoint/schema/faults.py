"""Turn pydantic's findings about data from outside into words: a JSON pointer and a phrase. Torch-free.

No text of a library reaches a user.
"""

import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from pydantic import BaseModel, ValidationError

from zeropoint.schema.layer_patterns import nearest

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
    "model_attributes_type": "must be an object",
    "union_tag_invalid": "needs {discriminator} to be one of {expected_tags}",
    "union_tag_not_found": "needs {discriminator}",
    "combination": "{reason}",
    "too_long": "must have at most {max_length} items",
    "too_short": "must have at least {min_length} items",
}
"""What is wrong at a place, by the type of pydantic's error."""


MOST_NAME = 64
"""Characters of a name that is repeated."""


class Fault(NamedTuple):
    """One place that is wrong: a JSON pointer ("" is the whole document) and a phrase."""

    pointer: str
    detail: str


def first_fault(error: ValidationError, keys: Collection[str] = ()) -> Fault:
    """Return the first fault that validation found. `keys`: those that may be meant by one that isn't known."""
    first = error.errors(include_url=False)[0]
    return Fault(pointer_to(first["loc"]), words_for(first, keys))


def keys_of(*models: type[BaseModel]) -> frozenset[str]:
    """Return the keys of some models, and of all that they are made of."""
    return frozenset(key for model in models for key in _keys(model.model_json_schema()))


def _keys(schema: object) -> Iterator[str]:
    if isinstance(schema, Mapping):
        yield from schema.get("properties", ())
        for part in schema.values():
            yield from _keys(part)
    elif isinstance(schema, list):
        for part in schema:
            yield from _keys(part)


def pointer_to(steps: Iterable[object]) -> str:
    """Return the JSON pointer (RFC 6901) of a place; each step is cut to 128 characters."""
    return "".join("/" + str(step).replace("~", "~0").replace("/", "~1")[:128] for step in steps)


def words_for(error: Mapping[str, Any], keys: Collection[str] = ()) -> str:
    """Return the phrase for one of pydantic's errors. `keys`: those that may be meant by one that isn't known."""
    words = WORDS.get(error["type"], "is not valid").format_map(error.get("ctx", {}))
    if error["type"] == "extra_forbidden":
        name = str(error["loc"][-1])
        return words + (" of this object" if name in keys else nearest(name, keys))
    if error["type"] == "model_attributes_type" and _is_named(error):
        return f"{words}, such as {json.dumps({'kind': error['input']})}"
    return words


def _is_named(error: Mapping[str, Any]) -> bool:
    """Return whether an observer or an algorithm is given by its name, without the object around it."""
    place, value = error["loc"], error.get("input")
    return isinstance(value, str) and len(value) <= MOST_NAME and ("observer" in place or "algorithms" in place)
