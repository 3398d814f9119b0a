"""Insert the corrections of error compensation into a graph: an input scale, a float product for outliers, a bias.

    x ─┬─ · pre_quant_scale ── Q/DQ ── linear / conv (+ bias) ──┐
       └─ index_select(outlier_channels) ── linear ─────────────┴─ + ── …

Layers that read the same values with the same factors (query, key, value) share the product, and then Q/DQ too.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.fx import Graph, Node

from zeropoint.formats.program.qdq_sharing import first_node_after, name_modules
from zeropoint.graph.program_state import ProgramEditor, add_node
from zeropoint.layers.quantized_layer import Outliers, QuantizedLayer
from zeropoint.layers.stored_tensors import bias_name, stored_corrections
from zeropoint.model.layer_call import LayerCall

aten = torch.ops.aten
Calls = Mapping[str, list[LayerCall]]


def correct(graph: Graph, editor: ProgramEditor, calls: Calls, layers: Sequence[QuantizedLayer]) -> Calls:
    """Insert the corrections of these layers around their calls; return the updated calls by layer."""
    corrections = _Corrections(graph, editor)
    corrected = dict(calls)
    for layer in layers:
        layer_calls = calls[layer.layer.name]
        if layer.bias is not None:
            corrected[layer.layer.name] = layer_calls = [
                corrections.put_bias(call, layer, layer.bias) for call in layer_calls
            ]
        if layer.outliers is not None:
            for call in layer_calls:
                corrections.add_outliers(call, layer, layer.outliers)
    for layer in layers:  # once all results have their last name
        if layer.pre_quant_scale is not None and layer.scaled_by is None:
            for call in corrected[layer.layer.name]:
                corrections.scale_input(call, layer, layer.pre_quant_scale)
    return corrected


class _Corrections:
    """Inserts the corrections of one graph; nodes that several calls need are inserted once."""

    def __init__(self, graph: Graph, editor: ProgramEditor) -> None:
        self._graph = graph
        self._editor = editor
        self._buffers: dict[str, Node] = {}
        self._inserted: dict[tuple[Node, str, bytes], Node] = {}

    def put_bias(self, call: LayerCall, layer: QuantizedLayer, bias: Tensor) -> LayerCall:
        """Replace the bias, or add one to a call without a bias (`mm` becomes `addmm`); return the updated call."""
        if call.bias is not None:
            self._editor.change(bias_name(layer), bias)
            return call
        node, buffer = call.node, self._buffer(call, bias_name(layer), bias)
        if node.target is aten.mm.default:
            node.target, node.args = aten.addmm.default, (buffer, *node.args)
            return replace(call, bias=buffer, input_index=1)
        node.args = (*node.args[:2], buffer, *node.args[3:])
        node.kwargs = {key: value for key, value in node.kwargs.items() if key != "bias"}
        return replace(call, bias=buffer)

    def add_outliers(self, call: LayerCall, layer: QuantizedLayer, outliers: Outliers) -> None:
        """Add the float product of the outlier channels to the operator's result; the sum takes over its name."""
        node, name, values = call.node, call.node.name, call.input

        def select() -> Node:
            buffer = self._buffer(call, layer.layer.stored_name("outlier_channels"), outliers.channels)
            return add_node(self._graph, aten.index_select.default, values, -1, buffer)

        name_of_weight = layer.layer.stored_name("outlier_weight")
        weight = self._buffer(call, name_of_weight, stored_corrections(layer)[name_of_weight])
        selected = self._once(values, "outliers", outliers.channels, select)
        with self._graph.inserting_before(node):
            product = add_node(self._graph, aten.linear.default, selected, weight)
        with self._graph.inserting_after(node):
            total = self._graph.call_function(aten.add.Tensor, (node, product))
        node.replace_all_uses_with(total, delete_user_cb=lambda reader: reader is not total)
        total.meta = dict(node.meta)
        product.meta["nn_module_stack"] = node.meta.get("nn_module_stack", {})
        node.name = f"{name}_of_integers"
        total.name = name

    def scale_input(self, call: LayerCall, layer: QuantizedLayer, scale: Tensor) -> None:
        """Multiply the input by `pre_quant_scale`, directly after the node of x and in the dtype of x."""
        values, spatial = call.input, call.weight.meta["val"].dim() - 2
        dtype = values.meta["val"].dtype

        def multiply() -> Node:
            factors = self._buffer(call, layer.layer.stored_name("pre_quant_scale"), scale)
            if spatial:
                factors = add_node(self._graph, aten.reshape.default, factors, [-1, *[1] * spatial])
            product = add_node(self._graph, aten.mul.Tensor, values, factors)
            same = product.meta["val"].dtype == dtype
            return product if same else add_node(self._graph, aten.to.dtype, product, dtype)

        call.node.update_arg(call.input_index, self._once(values, "scaled", scale, multiply))

    def _once(self, values: Node, purpose: str, factors: Tensor, insert: Callable[[], Node]) -> Node:
        """Insert nodes that compute from `values` directly after them; calls that need the same nodes share them."""
        key = (values, purpose, factors.numpy().tobytes())
        if key not in self._inserted:
            with self._graph.inserting_before(first_node_after(self._graph, values)):
                self._inserted[key] = insert()
            name_modules(self._inserted[key], values, values.meta.get("nn_module_stack", {}))
        return self._inserted[key]

    def _buffer(self, call: LayerCall, name: str, tensor: Tensor) -> Node:
        if name not in self._buffers:
            self._buffers[name] = self._editor.add(call.weight, "b_" + name.replace(".", "_"), name, tensor)
        return self._buffers[name]
