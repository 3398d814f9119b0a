"""Tree specs: the nesting of flat inputs and outputs. torch imports modules that they name, so only four may be named.

A spec is JSON inside a string: `[1, {"type": "builtins.dict", "context": "[\\"a\\"]", "children_spec": […]}]`.
"""

import json
import re
from typing import Any

from app.intake.parsing.names import RULE, is_identifier, is_name
from app.intake.parsing.strict_json import read_json
from app.intake.parsing.typed import Wrong

PROTOCOL = 1
MAX_CHARACTERS = 2**20
MAX_LEAVES = 10_000

_KEYED = ("builtins.dict", "collections.OrderedDict")
_PLAIN = ("builtins.tuple", "builtins.list")
LARGEST_KEY = 2**31
_CLASS = re.compile(r"transformers\.[a-z0-9_.]{1,128}\.[A-Za-z0-9]{1,128}")
_DATACLASS = re.compile(r"(?!builtins\.|collections\.)[A-Za-z0-9_.<>]{1,256}")
_FIELDS, _EMPTY_FIELDS = 0, 1


def input_spec(value: Any) -> str:
    """Return the rewritten spec of (args, kwargs). Raises Wrong."""
    root = _parse(value, classes=False)
    match root:
        case {
            "type": "builtins.tuple",
            "children_spec": [{"type": "builtins.tuple"}, {"type": "builtins.dict", "context": keywords}],
        }:
            if not all(map(is_argument, json.loads(keywords))):
                raise Wrong("has a keyword that is no identifier, which torch can't write as the name of an argument")
            return _write(root)
    raise Wrong("must nest as positional arguments in a tuple and keyword arguments in a dict")


def output_spec(value: Any) -> str:
    """Return the rewritten spec of the outputs, in which a dataclass or a transformers ModelOutput becomes a dict.

    torch needs the class to load such a file, and nobody but its author has it. Raises Wrong.
    """
    return _write(_parse(value, classes=True))


def _parse(value: Any, *, classes: bool) -> dict[str, Any]:
    if type(value) is not str or len(value) > MAX_CHARACTERS:
        raise Wrong(f"must be text of at most {MAX_CHARACTERS} characters")
    document = read_json(value.encode(errors="replace"), lambda detail: Wrong(detail))
    if type(document) is not list or len(document) != 2 or document[0] != PROTOCOL:
        raise Wrong(f"must be a tree spec of version {PROTOCOL}")
    return _node(document[1], classes=classes)


def _node(value: Any, *, classes: bool) -> dict[str, Any]:
    if type(value) is not dict or value.keys() != {"type", "context", "children_spec"}:
        raise Wrong("has a node without type, context and children_spec")
    kind, context, children = value["type"], value["context"], value["children_spec"]
    if type(children) is not list or len(children) > MAX_LEAVES:
        raise Wrong("has a node whose children are not a list")
    nodes = [_node(child, classes=classes) for child in children]
    if kind is None and context is None and not nodes:
        return {"type": None, "context": None, "children_spec": []}
    if kind in _PLAIN and context == "null":
        return {"type": str(kind), "context": "null", "children_spec": nodes}
    is_class = classes and type(kind) is str and _CLASS.fullmatch(kind) is not None
    if kind in _KEYED or is_class:
        type_name = "builtins.dict" if is_class else str(kind)
        return {
            "type": type_name,
            "context": json.dumps(_keys(_read(context), len(nodes))),
            "children_spec": nodes,
        }
    fields = _fields(kind, context) if classes else None
    if fields is not None:
        return {"type": "builtins.dict", "context": json.dumps(_keys(fields, len(nodes))), "children_spec": nodes}
    raise Wrong(
        "nests in something other than tuple, list, dict and OrderedDict (outputs also in dataclasses): return or take "
        "one of these in the model's forward"
    )


def _read(context: Any) -> Any:
    return read_json(context.encode(errors="replace"), lambda detail: Wrong(detail)) if type(context) is str else None


def _fields(kind: Any, context: Any) -> Any:
    """Return the fields of a dataclass, without those that are None in the export; None for anything else."""
    if type(kind) is not str or _DATACLASS.fullmatch(kind) is None or type(context) is not str:
        return None
    parts = _read(context)
    is_pair = type(parts) is list and len(parts) == len((_FIELDS, _EMPTY_FIELDS))
    return parts[_FIELDS] if is_pair and all(type(part) is list for part in parts) else None


def _keys(keys: Any, count: int) -> list[str | int]:
    if type(keys) is not list or len(keys) != count or not all(map(is_key, keys)) or len(set(keys)) != count:
        raise Wrong(f"has a dict whose keys are not distinct names or integers, one for each child ({RULE})")
    return [*keys]


def is_key(value: Any) -> bool:
    """Return whether it may be a key of a dict among the inputs or outputs."""
    return value == "" or is_name(value) or (type(value) is int and abs(value) <= LARGEST_KEY)


def is_argument(value: Any) -> bool:
    """Return whether torch may write it as the name of an argument of `forward`."""
    return is_name(value) and is_identifier(value) and "__" not in value and value != "self"


def _write(root: dict[str, Any]) -> str:
    return json.dumps([PROTOCOL, root])
