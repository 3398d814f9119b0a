"""The input of a layer on its grid: Q/DQ behind the values, and nothing between the pair and the operator.

What torch itself would put there (a copy, the odd end of a padding, a batch dimension) comes before the pair. That
changes no number: zero lies on every grid, and the rest only moves values.
"""

from collections.abc import Iterable
from typing import cast

import torch
from torch.fx import Graph, Node

from quantization.formats.kernels import Form, input_grid, lacks_batch, lies_crosswise, window
from quantization.formats.qdq import add_node, lay_on_grid
from quantization.layers import Activation
from quantization.sources.graph import Call

aten = torch.ops.aten


class Inputs:
    """Quantizes inputs in one graph; calls of the same values on the same grid (query, key, value) share a pair."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._made: dict[object, Node] = {}

    def quantize(self, call: Call, activation: Activation, form: Form) -> None:
        """Put Q/DQ in front of a call whose weight has this form."""
        values, stack = call.input, call.input.meta.get("nn_module_stack", {})
        fitting = self._fitting(call) if form == "kernel" else values
        affine = input_grid(activation.affine, call)
        key = (fitting, float(affine.scale), int(affine.zero_point), affine.grid)
        if key not in self._made:
            with self._graph.inserting_before(self._behind(fitting)):
                self._made[key] = lay_on_grid(self._graph, fitting, affine)
        name_modules(self._made[key], values, stack)
        call.node.update_arg(call.input_index, self._made[key])

    def _fitting(self, call: Call) -> Node:
        """The call's input as a kernel reads it; the operator is changed so that it gives the same."""
        if call.kind != "Linear":
            return self._as_convolution_2d(call)
        if lies_crosswise(call):
            return self._once(call.input, aten.clone.default, memory_format=torch.contiguous_format)
        if lacks_batch(call):
            _drop_dimensions(self._graph, call.node, [0])
            return self._once(call.input, aten.unsqueeze.default, 0)
        return call.input

    def _as_convolution_2d(self, call: Call) -> Node:
        """A batch of pictures with the same padding at both ends.

        A sequence is a picture of one row: torch 2.13 gets the length of a quantized conv1d's output wrong.
        """
        values, moves, flat = call.input, window(call), call.kind == "Conv1d"
        added = [0] * lacks_batch(call) + [2] * flat
        if not added and not any(moves.more):
            return values
        if any(moves.more):
            ends = [end for size in reversed(moves.more) for end in (0, size)]
            values = self._once(values, aten.constant_pad_nd.default, ends)
        for dimension in added:
            values = self._once(values, aten.unsqueeze.default, dimension)
        moves, node = moves.flat() if flat else moves, call.node
        node.target = aten.conv2d.default
        node.args = (call.input, call.weight, call.bias, moves.stride, moves.padding, moves.dilation, moves.groups)
        node.kwargs = {}
        _drop_dimensions(self._graph, node, added)
        return values

    def _once(self, values: Node, target: object, *arguments: object, **options: object) -> Node:
        key = (values, target, str(arguments))
        if key not in self._made:
            with self._graph.inserting_before(self._behind(values)):
                self._made[key] = add_node(self._graph, target, values, *arguments, **options)
        return self._made[key]

    def _behind(self, values: Node) -> Node:
        """What follows the values: everything that reads them comes later."""
        if values.op != "placeholder":
            return values.next
        return next(node for node in cast(Iterable[Node], self._graph.nodes) if node.op != "placeholder")


def name_modules(last: Node, first: Node, stack: object) -> None:
    """The nodes between two belong to these modules of the user's source."""
    for node in last.all_input_nodes:
        if node is not first and node.op != "placeholder" and "nn_module_stack" not in node.meta:
            name_modules(node, first, stack)
    last.meta.setdefault("nn_module_stack", stack)


def _drop_dimensions(graph: Graph, node: Node, added: list[int]) -> None:
    """The operator gives these dimensions of size 1 too; what follows it reads a value without, under its name."""
    if not added:
        return
    value, name = node.meta["val"], node.name
    with graph.inserting_after(node):
        without = graph.call_function(aten.squeeze.dims, (node, added))
    node.replace_all_uses_with(without, delete_user_cb=lambda reader: reader is not without)
    without.meta = dict(node.meta)
    with value.fake_mode:
        for dimension in added:
            node.meta["val"] = node.meta["val"].unsqueeze(dimension)
    node.name = f"{name}_whole"
    without.name = name
