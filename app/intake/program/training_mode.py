"""Find the modules of a program that were exported in training mode (see `schema.training_mode`)."""

from typing import Any

from app.intake.program.module_stack import module_stack
from zeropoint.schema.training_mode import trains, updated_statistics

_PREFIX = "torch.ops.aten."


def modules_in_training(document: dict[str, Any]) -> dict[str, str]:
    """Return path -> class of the modules in training mode, in the order of the graph of a checked model.json."""
    module = document["graph_module"]
    found: dict[str, str] = {}
    types: dict[str, str] = {}
    for node in module["graph"]["nodes"]:
        stack = module_stack(node)
        types |= stack
        path, kind = next(reversed(stack.items()), ("", ""))
        operator = node["target"].removeprefix(_PREFIX)
        arguments = {entry["name"]: _value(entry["arg"]) for entry in node["inputs"]}
        if trains(operator, arguments, kind):
            found.setdefault(path, kind or operator)
    for spec in module["signature"]["output_specs"]:
        owner = updated_statistics(spec["buffer_mutation"]["buffer_name"]) if "buffer_mutation" in spec else None
        if owner is not None:
            found.setdefault(owner, types.get(owner, "BatchNorm"))
    return found


def _value(argument: dict[str, Any]) -> object:
    """Return an argument as Python has it: None, a bool or a number; anything else stays an object of the file."""
    ((kind, value),) = argument.items()
    if kind == "as_optional_tensor":
        return _value(value)
    return None if kind == "as_none" else value
