"""Tree specs: how flat inputs and outputs nest. torch imports modules by the names in them; here only four may stand.

A spec is JSON inside of a string: `[1, {"type": "builtins.dict", "context": "[\\"a\\"]", "children_spec": […]}]`.
"""

import json
import keyword
import re
from typing import Any

from app.intake.parsing.strict_json import read_json
from app.intake.parsing.typed import Wrong

PROTOCOL = 1
MAX_CHARACTERS = 2**20
MAX_LEAVES = 10_000

_KEYED = ("builtins.dict", "collections.OrderedDict")
_PLAIN = ("builtins.tuple", "builtins.list")
_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,255}")
_CLASS = re.compile(r"transformers\.[a-z0-9_.]{1,128}\.[A-Za-z0-9]{1,128}")


def input_spec(value: Any) -> str:
    """The spec of (args, kwargs), written anew. Raises Wrong."""
    root = _parse(value, classes=False)
    match root:
        case {"type": "builtins.tuple", "children_spec": [{"type": "builtins.tuple"}, {"type": "builtins.dict"}]}:
            return _write(root)
    raise Wrong("must nest as positional arguments in a tuple and keyword arguments in a dict")


def output_spec(value: Any) -> str:
    """The spec of what is returned; a transformers ModelOutput becomes the dict that it is. Raises Wrong."""
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
        raise Wrong("has a node whose children are no list")
    below = [_node(child, classes=classes) for child in children]
    if kind is None and context is None and not below:
        return {"type": None, "context": None, "children_spec": []}
    if kind in _PLAIN and context == "null":
        return {"type": str(kind), "context": "null", "children_spec": below}
    is_class = classes and type(kind) is str and _CLASS.fullmatch(kind) is not None
    if kind in _KEYED or is_class:
        named = "builtins.dict" if is_class else str(kind)
        return {"type": named, "context": json.dumps(_keys(context, len(below))), "children_spec": below}
    raise Wrong("nests in something else than tuple, list, dict and OrderedDict")


def _keys(context: Any, count: int) -> list[str]:
    keys = read_json(context.encode(errors="replace"), lambda detail: Wrong(detail)) if type(context) is str else None
    if type(keys) is not list or len(keys) != count or not all(map(is_key, keys)) or len(set(keys)) != count:
        raise Wrong("has a dict whose keys are not distinct identifiers, one for each child")
    return [str(key) for key in keys]


def is_key(value: Any) -> bool:
    """Whether it may be a dict's key and an argument's name."""
    return type(value) is str and bool(_KEY.fullmatch(value)) and not keyword.iskeyword(value) and "__" not in value


def _write(root: dict[str, Any]) -> str:
    return json.dumps([PROTOCOL, root])
