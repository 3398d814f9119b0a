"""Find the modules of a program that were exported in training mode (see `schema.training_mode`)."""

from torch._ops import OpOverload
from torch.export import ExportedProgram
from torch.fx import Node

from zeropoint.graph.calls import module_types
from zeropoint.graph.matching import named_arguments
from zeropoint.schema.training_mode import trains, updated_statistics


def modules_in_training(program: ExportedProgram) -> dict[str, str]:
    """Return path -> class of the modules in training mode, in the order of the graph.

    A call outside of any module that is known has its operator's name as class.
    """
    found: dict[str, str] = {}
    types: dict[str, str] = {}
    for node in program.graph.nodes:
        if node.op != "call_function" or not isinstance(node.target, OpOverload):
            continue
        stack = [*module_types(node)]
        types |= dict(stack)
        path, kind = stack[-1] if stack else ("", "")
        operator = str(node.target).partition(".")[2]
        if trains(operator, _values(node), kind):
            found.setdefault(path, kind or operator)
    for buffer in program.graph_signature.buffers_to_mutate.values():
        owner = updated_statistics(buffer)
        if owner is not None:
            found.setdefault(owner, types.get(owner, "BatchNorm"))
    return found


def _values(node: Node) -> dict[str, object]:
    return {name: value for name, value in named_arguments(node).items() if value is not None}
