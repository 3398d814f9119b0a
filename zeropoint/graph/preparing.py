"""Prepare a program for its quantized layers: store their computed weights, and spell their products as linears.

    weight = v · g / ‖v‖ ── linear        →   weight ── linear
    bmm(x, expand(permute(weight)))       →   linear(x, weight)

A layer that reads a stored weight in one of the forms that every format writes stays as it is, and so does everything
that stays in float: only sources that no operator reads any more are dropped, together with the operators after them.
"""

from collections.abc import Collection, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.fx import Graph, Node

from zeropoint.graph.calls import Calls, on_graph
from zeropoint.graph.constants import Constants, is_check
from zeropoint.graph.leaves import canonical_weight, drop_addition, result_of, values_last
from zeropoint.graph.program_state import ProgramEditor, add_node
from zeropoint.graph.pruning import copy_graph, prune, rebuild
from zeropoint.model.layer_call import LayerCall
from zeropoint.model.source import ProgramSource, Source

aten = torch.ops.aten


def prepared(source: Source, layers: Collection[str]) -> Source:
    """Return the source with these layers in the form that formats write; the module and the layers stay the same."""
    if not isinstance(source, ProgramSource):
        return source
    names = _with_their_slices(source.calls, layers)
    changed = [name for name in names if not all(call.is_ready for call in source.calls[name])]
    if not changed:
        return source
    program, calls = prepared_program(source.program, source.calls, changed)
    return replace(source, program=program, calls=calls, tensors=program.state_dict)


def prepared_program(
    program: ExportedProgram, calls: Calls, changed: Collection[str]
) -> tuple[ExportedProgram, dict[str, list[LayerCall]]]:
    """Return the program with these layers changed, and all calls on its graph."""
    constants = Constants(program, program.graph)
    graph = copy_graph(program.graph)
    editor = ProgramEditor(program, graph)
    writer = _Writer(graph, editor, constants, {node.name: node for node in program.graph.nodes})
    result = on_graph(calls, graph)
    for name in changed:
        result[name] = [writer.rewritten(call) for call in result[name]]
    result = {n: [replace(c, operand=writer.result(c.operand)) for c in places] for n, places in result.items()}
    constant = {node.name for node in program.graph.nodes if node in constants}
    for check in [node for node in graph.nodes if is_check(node) and node.all_input_nodes[0].name in constant]:
        graph.erase_node(check)  # it would keep a tensor that nothing else reads
    pruned = prune(rebuild(program, graph, editor.specs, editor.state))
    alive = {node.name for node in pruned.graph.nodes}
    kept = {name: places for name, places in result.items() if all(call.node.name in alive for call in places)}
    return pruned, on_graph(kept, pruned.graph)


def _with_their_slices(calls: Calls, layers: Collection[str]) -> list[str]:
    """Return the layers, and those whose weight is computed from the same tensor.

    It would be stored twice else; and where a layer reads it as it is, the others would be computed from integers.
    """
    chosen = [name for name in layers if name in calls]
    sources = {source for name in chosen for call in calls[name] for source in call.sources}
    return [
        name
        for name, places in calls.items()
        if name in chosen or any(call.folded and sources & set(call.sources) for call in places)
    ]


class _Writer:
    """Rewrites the calls of one graph."""

    def __init__(
        self, graph: Graph, editor: ProgramEditor, constants: Constants, originals: Mapping[str, Node]
    ) -> None:
        self._graph, self._editor = graph, editor
        self._constants, self._originals = constants, originals
        self._stored: dict[str, Node] = {}
        self._results: dict[Node, Node] = {}

    def rewritten(self, call: LayerCall) -> LayerCall:
        """Return the call in the form that formats write, once the graph has it."""
        weight, bias = call.weight, call.bias
        if call.folded:
            value = canonical_weight(self._value(call.weight), call)
            weight = self._put(call.weight, call.weight_name, value)
        if call.bias is not None and call.bias_folded and call.bias_name is not None:
            bias = self._put(call.bias, call.bias_name, self._value(call.bias).reshape(-1))
        if call.is_held:
            call.weight.replace_all_uses_with(weight)
            return replace(call, weight=weight, operand=weight, folded=False)
        if call.spelling is not None:
            return self._as_linear(call, weight, bias)
        for old, new in ((call.weight, weight), (call.bias, bias)):
            if old is not None and new is not None and old is not new:
                self._replace(call, old, new)
        views = tuple(view for view in call.views if call.node in view.users)
        return replace(call, weight=weight, bias=bias, views=views, folded=False, bias_folded=False)

    def _as_linear(self, call: LayerCall, weight: Node, bias: Node | None) -> LayerCall:
        """Replace an operator by a linear with the result's name."""
        node, name = call.node, call.node.name
        stack = node.meta.get("nn_module_stack", {})
        with self._graph.inserting_before(node):
            before = list(self._graph.nodes)
            insert = partial(_insert, self._graph)
            values = values_last(insert, self.result(call.operand), call.spelling)
            factor = insert(aten.t.default, (weight,)) if call.transposed else weight
            linear = insert(aten.linear.default, (values, factor, *(() if bias is None else (bias,))))
            result = result_of(insert, linear, call.spelling)
            added = set(self._graph.nodes) - set(before)
        for new in added:
            new.meta["nn_module_stack"] = stack
        node.replace_all_uses_with(result)
        self._results[node] = result
        self._graph.erase_node(node)
        result.name = name  # which outputs refer to
        if call.addition is not None:
            self._results[call.addition] = drop_addition(call.addition, call.summand_index)
        views = (factor,) if call.transposed else ()
        return LayerCall(
            node=linear,
            kind=call.kind,
            operand=values,
            weight=weight,
            bias=bias,
            views=views,
            weight_name=call.weight_name,
            bias_name=call.bias_name,
            sources=call.sources,
            order=call.order if call.transposed else (),
        )

    def result(self, node: Node) -> Node:
        """Return the node that computes the values of one that may have been replaced."""
        while node in self._results:
            node = self._results[node]
        return node

    def _replace(self, call: LayerCall, old: Node, new: Node) -> None:
        """Make the operator read another node, also through a view of its own."""
        for view in call.views:
            if old in view.all_input_nodes and call.node in view.users:
                with self._graph.inserting_before(call.node):
                    own = self._graph.node_copy(view, lambda node: new if node is old else node)
                call.node.replace_input_with(view, own)
                return
        call.node.replace_input_with(old, new)

    def _value(self, node: Node) -> Tensor:
        return self._constants.value(self._originals[node.name])

    def _put(self, node: Node, name: str, value: Tensor) -> Node:
        """Return the graph's input for a computed tensor; calls that read the same one share it."""
        if name not in self._stored:
            after = next(source for source in self._constants.sources(self._originals[node.name]))
            place = next(n for n in self._graph.nodes if n.name == after.name)
            own = value.clone(memory_format=torch.contiguous_format)  # a slice would keep the whole in memory and files
            parameter = nn.Parameter(own, requires_grad=False)
            self._stored[name] = self._editor.add(place, "p_" + name.replace(".", "_"), name, parameter)
        return self._stored[name]


def _insert(graph: Graph, target: Any, arguments: tuple[Any, ...]) -> Node:
    return add_node(graph, target, *arguments)
