"""Constants: values that depend on parameters, buffers and constants alone, such as a normalized or sliced weight.

A buffer that the program writes is none, nor is what draws random numbers or reads memory that nobody wrote.
"""

from collections.abc import Iterator, Mapping
from operator import getitem
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.export import ExportedProgram
from torch.fx import Graph, Node

_UNWRITTEN = ("aten::empty", "aten::new_empty", "aten::empty_like", "aten::empty_strided", "aten::empty_permuted")


def is_check(node: Node) -> bool:
    """Return whether a node only checks dtype and device of a tensor, as an export does before each cast."""
    return node.target is torch.ops.aten._assert_tensor_metadata.default


class Constants:
    """The constant nodes of a graph and their values, which are computed when they are first asked for."""

    def __init__(self, program: ExportedProgram, graph: Graph) -> None:
        """Find the constant nodes of `graph`, which is the program's own or a copy with the same names."""
        self._stored = _stored_tensors(program)
        self._constant: set[Node] = set()
        self._values: dict[Node, Any] = {}
        self._first: dict[object, Node] = {}
        self._same: dict[Node, Node] = {}
        self._sources: dict[Node, tuple[Node, ...]] = {}
        for node in graph.nodes:
            if node.name in self._stored if node.op == "placeholder" else self._computes(node):
                self._constant.add(node)

    def __contains__(self, node: object) -> bool:
        return node in self._constant

    def is_trainable(self, node: Node) -> bool:
        """Return whether the node is a graph input whose tensor requires a gradient."""
        return node.op == "placeholder" and self._stored[node.name].requires_grad

    def value(self, node: Node) -> Tensor:
        """Return the value that the program computes for a constant node, bit for bit."""
        pending = [node]
        with torch.no_grad():
            while pending:
                last = pending[-1]
                missing = [argument for argument in last.all_input_nodes if argument not in self._values]
                if last in self._values or not missing:
                    pending.pop()
                    self._values.setdefault(last, self._evaluated(last))
                pending += missing
        value: Tensor = self._values[node]
        return value

    def sources(self, node: Node) -> tuple[Node, ...]:
        """Return the graph's inputs that a constant node depends on, in the order of the graph's arguments."""
        if node not in self._sources:
            reached, pending = dict[Node, None](), [node]
            while pending:
                last = pending.pop()
                if last not in reached:
                    reached[last] = None
                    pending += last.all_input_nodes
            self._sources[node] = tuple(reader for reader in reached if reader.op == "placeholder")
        return self._sources[node]

    def same(self, node: Node) -> Node:
        """Return the first constant node that is computed in the same way, from the same tensors."""
        if node not in self._same:
            key = node if node.op == "placeholder" else (node.target, self._text(node.args), self._text(node.kwargs))
            self._same[node] = self._first.setdefault(key, node)
        return self._same[node]

    def _text(self, arguments: Any) -> str:
        return str(torch.fx.node.map_arg(arguments, lambda argument: self.same(argument)))

    def _computes(self, node: Node) -> bool:
        target = node.target
        if node.op != "call_function" or not all(argument in self._constant for argument in node.all_input_nodes):
            return False
        if target is getitem:
            return True
        if not isinstance(target, OpOverload) or target._schema.is_mutable or target._schema.name in _UNWRITTEN:
            return False
        return torch.Tag.nondeterministic_seeded not in target.tags and _is_tensor(node.meta.get("val"))

    def _evaluated(self, node: Node) -> Any:
        if node.op == "placeholder":
            return self._stored[node.name].detach()
        args, kwargs = torch.fx.node.map_arg((node.args, node.kwargs), lambda argument: self._values[argument])
        return node.target(*args, **kwargs)  # type: ignore[operator]


def _is_tensor(value: object) -> bool:
    return isinstance(value, Tensor) or (isinstance(value, tuple | list) and all(map(_is_tensor, value)))


def _stored_tensors(program: ExportedProgram) -> Mapping[str, Tensor]:
    """Return the tensors of the program that no call changes, by the name of their graph input."""
    return dict(_each_stored(program))


def _each_stored(program: ExportedProgram) -> Iterator[tuple[str, Tensor]]:
    signature = program.graph_signature
    written = set(signature.buffers_to_mutate.values())
    inputs = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    for node, name in {**inputs, **signature.inputs_to_lifted_tensor_constants}.items():
        value = program.state_dict.get(name, program.constants.get(name))
        if isinstance(value, Tensor) and name not in written:
            yield node, value
