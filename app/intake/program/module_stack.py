"""Read a node's `nn_module_stack`: the modules of the user's source in which it ran."""

import re
from typing import Any

_CLASS_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_REPEATED_CALL = re.compile(r"@[0-9]+$")


def module_stack(node: dict[str, Any]) -> dict[str, str]:
    """Return path -> class of the modules, outermost first."""
    stack: dict[str, str] = {}
    for entry in filter(None, node["metadata"].get("nn_module_stack", "").split(";")):
        _, path, qualified = entry.split(",")
        name = qualified.rpartition(".")[2]
        if _CLASS_NAME.fullmatch(name):
            stack[_REPEATED_CALL.sub("", path)] = name
    return stack
