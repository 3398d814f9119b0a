"""The input of a layer on its grid: Q/DQ behind the values, and nothing between the pair and the operator.

What torch itself would put there (a copy, the odd end of a padding, a batch dimension) comes before the pair. That
changes no number: zero lies on every grid, and the rest only moves values.
"""

from dataclasses import replace

import torch
from torch.fx import Graph, Node

from zeropoint.formats.program.inductor import Form, input_grid, lacks_batch, lies_crosswise, window
from zeropoint.formats.program.qdq import add_node
from zeropoint.formats.program.qdq_sharing import Pairs, what_follows
from zeropoint.graph.calls import LayerCall
from zeropoint.layers.quantized_layer import Activation

aten = torch.ops.aten
FITTING = "zeropoint_fitting"
"""Node metadata while a graph is written: what is put before Q/DQ stands directly behind its values."""


def quantize_input(graph: Graph, pairs: Pairs, call: LayerCall, activation: Activation, form: Form) -> None:
    """Put Q/DQ in front of a call whose weight has this form."""
    values = call.input
    if form == "kernel":
        values = _fitting(graph, call)
        activation = replace(activation, qparams=input_grid(activation.qparams, call))
    call.node.update_arg(call.input_index, pairs.behind(values, activation))


def _fitting(graph: Graph, call: LayerCall) -> Node:
    """The call's input as a kernel reads it; the operator is changed so that it gives the same."""
    if call.kind != "Linear":
        return _as_convolution_2d(graph, call)
    if lies_crosswise(call):
        return _behind(graph, call.input, aten.clone.default, memory_format=torch.contiguous_format)
    if lacks_batch(call):
        _drop_dimensions(graph, call.node, [0])
        return _behind(graph, call.input, aten.unsqueeze.default, 0)
    return call.input


def _as_convolution_2d(graph: Graph, call: LayerCall) -> Node:
    """A batch of pictures with the same padding at both ends.

    A sequence is a picture of one row: torch 2.13 gets the length of a quantized conv1d's output wrong.
    """
    values, moves, flat = call.input, window(call), call.kind == "Conv1d"
    added = [0] * lacks_batch(call) + [2] * flat
    if not added and not any(moves.more):
        return values
    if any(moves.more):
        ends = [end for size in reversed(moves.more) for end in (0, size)]
        values = _behind(graph, values, aten.constant_pad_nd.default, ends)
    for dimension in added:
        values = _behind(graph, values, aten.unsqueeze.default, dimension)
    moves, node = moves.flat() if flat else moves, call.node
    node.target = aten.conv2d.default
    node.args = (call.input, call.weight, call.bias, moves.stride, moves.padding, moves.dilation, moves.groups)
    node.kwargs = {}
    _drop_dimensions(graph, node, added)
    return values


def _behind(graph: Graph, values: Node, target: object, *arguments: object, **options: object) -> Node:
    """This operator on the values; calls of the same values (query, key, value) share one."""
    made = (user for user in values.users if user.meta.get(FITTING) and user.target is target)
    node = next((user for user in made if user.args[1:] == arguments), None)
    if node is None:
        with graph.inserting_before(what_follows(graph, values)):
            node = add_node(graph, target, values, *arguments, **options)
        node.meta |= {FITTING: True, "nn_module_stack": values.meta.get("nn_module_stack", {})}
    return node


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
