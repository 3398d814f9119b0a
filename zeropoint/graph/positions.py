"""Give every operator its arguments by position, as torch 2.8 and later export them; older files load with keywords."""

from typing import Any

from torch._ops import OpOverload
from torch.export import ExportedProgram
from torch.fx import Node

from zeropoint.graph.pruning import copy_graph, rebuild


def by_position(program: ExportedProgram) -> ExportedProgram:
    """Return the program with arguments by position; those left out before the last one get their default."""
    if not any(_named(node) for node in program.graph.nodes):
        return program
    graph = copy_graph(program.graph)
    for node in graph.nodes:
        if _named(node):
            _move(node)
    return rebuild(program, graph, program.graph_signature.input_specs, program.state_dict)


def _positional(node: Node) -> list[Any]:
    """Return the schema's arguments that may go by position."""
    if not isinstance(node.target, OpOverload):
        return []
    return [argument for argument in node.target._schema.arguments if not argument.kwarg_only]


def _named(node: Node) -> bool:
    return any(argument.name in node.kwargs for argument in _positional(node))


def _move(node: Node) -> None:
    left, arguments = dict(node.kwargs), list(node.args)
    later = _positional(node)[len(arguments) :]
    while later and any(argument.name in left for argument in later):
        argument, *later = later
        arguments.append(left.pop(argument.name) if argument.name in left else argument.default_value)
    node.args, node.kwargs = tuple(arguments), left
