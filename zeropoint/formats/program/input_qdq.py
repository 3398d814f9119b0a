"""Insert Q/DQ for a layer's input so that nothing stands between the pair and the operator.

Nodes that torch itself would insert there (a copy, uneven padding, a batch dimension) are inserted before the pair.
That changes no value: zero is representable in every quantized type, and the other nodes only move values.
"""

from dataclasses import replace

import torch
from torch.fx import Graph, Node

from zeropoint.formats.program.inductor import Form, conv_options, input_qparams, is_noncontiguous, lacks_batch
from zeropoint.formats.program.qdq_sharing import QdqPairs, first_node_after
from zeropoint.graph.program_state import add_node
from zeropoint.layers.quantized_layer import Activation
from zeropoint.model.layer_call import LayerCall

aten = torch.ops.aten
KERNEL_INPUT = "zeropoint_kernel_input"
"""Node metadata while a graph is written: marks nodes that prepare values for a kernel, before Q/DQ."""


def quantize_input(graph: Graph, qdq_pairs: QdqPairs, call: LayerCall, activation: Activation, form: Form) -> None:
    """Insert Q/DQ before a call whose weight has this form."""
    values = call.input
    if form == "kernel":
        values = _kernel_input(graph, call)
        activation = replace(activation, qparams=input_qparams(activation.qparams, call))
    call.node.update_arg(call.input_index, qdq_pairs.insert(values, activation))


def _kernel_input(graph: Graph, call: LayerCall) -> Node:
    """Return the call's input in the shape that a kernel reads; change the operator so that its result stays equal."""
    if call.kind != "Linear":
        return _as_convolution_2d(graph, call)
    if is_noncontiguous(call):
        return _apply(graph, call.input, aten.clone.default, memory_format=torch.contiguous_format)
    if lacks_batch(call):
        _drop_dimensions(graph, call.node, [0])
        return _apply(graph, call.input, aten.unsqueeze.default, 0)
    return call.input


def _as_convolution_2d(graph: Graph, call: LayerCall) -> Node:
    """Turn the call into a conv2d over a batch, with equal padding at both ends; return its input.

    A sequence becomes an image of one row: torch 2.13 computes a wrong output length for a quantized conv1d. Its kernel
    takes one number for each dimension, and torch itself writes a single one for `padding="valid"`.
    """
    values, options, is_1d = call.input, conv_options(call), call.kind == "Conv1d"
    added = [0] * lacks_batch(call) + [2] * is_1d
    if not added and not any(options.extra) and not _is_short(call):
        return values
    if any(options.extra):
        ends = [end for size in reversed(options.extra) for end in (0, size)]
        values = _apply(graph, values, aten.constant_pad_nd.default, ends)
    for dimension in added:
        values = _apply(graph, values, aten.unsqueeze.default, dimension)
    options, node = options.as_2d() if is_1d else options, call.node
    node.target = aten.conv2d.default
    node.args = (
        *(call.input, call.weight, call.bias),
        *(options.stride, options.padding, options.dilation, options.groups),
    )
    node.kwargs = {}
    _drop_dimensions(graph, node, added)
    return values


def _is_short(call: LayerCall) -> bool:
    """Return whether an option of a conv2d is one number for both dimensions, or becomes one: "valid", the default."""
    if call.node.target is aten.conv2d.padding and call.options.get("padding") != "same":
        return True
    given = (call.options.get(name) for name in ("stride", "padding", "dilation"))
    return any(isinstance(value, list | tuple) and len(value) == 1 for value in given)


def _apply(graph: Graph, values: Node, target: object, *arguments: object, **options: object) -> Node:
    """Apply this operator to the values; calls that read the same values (query, key, value) share one node."""
    existing = (user for user in values.users if user.meta.get(KERNEL_INPUT) and user.target is target)
    node = next((user for user in existing if user.args[1:] == arguments), None)
    if node is None:
        with graph.inserting_before(first_node_after(graph, values)):
            node = add_node(graph, target, values, *arguments, **options)
        node.meta |= {KERNEL_INPUT: True, "nn_module_stack": values.meta.get("nn_module_stack", {})}
    return node


def _drop_dimensions(graph: Graph, node: Node, added: list[int]) -> None:
    """Squeeze these added dimensions of size 1 after the operator; the squeezed value takes over its name."""
    if not added:
        return
    value, name = node.meta["val"], node.name
    with graph.inserting_after(node):
        squeezed = graph.call_function(aten.squeeze.dims, (node, added))
    node.replace_all_uses_with(squeezed, delete_user_cb=lambda reader: reader is not squeezed)
    squeezed.meta = dict(node.meta)
    with value.fake_mode:
        for dimension in added:
            node.meta["val"] = node.meta["val"].unsqueeze(dimension)
    node.name = f"{name}_whole"
    squeezed.name = name
