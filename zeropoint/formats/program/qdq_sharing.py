"""Share Q/DQ pairs between layers that read one value, and insert pairs where integers can stay integers.

A runtime runs a convolution on integers only when its result is quantized at once. So formats for such runtimes also
get a pair at a convolution's fused output, and every reader reads from it. That rounds the value once more, so it is
done only where it costs little (docs/decisions/0014-onnx.md has the measurements):

* Every reader of the output quantizes it, at once or after operators that have an integer form themselves.
  A value that goes on in float (into a normalization, a sigmoid, a model output) stays float.
* The output is rectified, or no layer reads it quantized. A layer and an addition that read the same two-sided value
  form a residual connection, which accumulates over the whole network: rounding it there cost 1 dB and more.
"""

from collections.abc import Iterable
from typing import cast

import torch
from torch.fx import Graph, Node

from zeropoint.formats.program.qdq import insert_qdq, ops
from zeropoint.graph.fused_outputs import fused_output, is_rectified
from zeropoint.layers.quantized_layer import Activation
from zeropoint.model.layer_call import LayerCall
from zeropoint.primitives.qparams import QuantType

aten = torch.ops.aten

INTEGER_FORMS = (
    *(aten.add.Tensor, aten.cat.default, aten.relu.default, aten.hardtanh.default, aten.clamp.default),
    *(aten.max_pool1d.default, aten.max_pool2d.default, aten.max_pool3d.default),
    *(aten.avg_pool1d.default, aten.avg_pool2d.default, aten.avg_pool3d.default, aten.mean.dim),
    *(aten.adaptive_avg_pool1d.default, aten.adaptive_avg_pool2d.default, aten.adaptive_avg_pool3d.default),
    *(aten.flatten.using_ints, aten.view.default, aten.reshape.default, aten._unsafe_view.default),
    *(aten.pad.default, aten.constant_pad_nd.default),
    *(aten.permute.default, aten.transpose.int, aten.squeeze.dim, aten.squeeze.dims, aten.unsqueeze.default),
    *(aten.dropout.default, aten.clone.default, aten.contiguous.default),
)
"""Operators that runtimes run on integers, or that only move values."""


class QdqPairs:
    """The Q/DQ pairs of one graph."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._pairs: dict[tuple[Node, float, int, QuantType], Node] = {}

    def insert(self, values: Node, activation: Activation) -> Node:
        """Return x̂ of `values`; layers that read them with the same qparams (query, key, value) share one pair."""
        qparams = activation.qparams
        key = (values, float(qparams.scale), int(qparams.zero_point), qparams.quant_type)
        if key not in self._pairs:
            with self._graph.inserting_before(first_node_after(self._graph, values)):
                self._pairs[key] = insert_qdq(self._graph, values, qparams)
            name_modules(self._pairs[key], values, values.meta.get("nn_module_stack", {}))
        return self._pairs[key]

    def insert_at_outputs(self, calls: Iterable[tuple[LayerCall, Activation]]) -> None:
        """Insert pairs at the fused outputs of these calls where integers can stay integers."""
        outputs = [(fused_output(call), activation) for call, activation in calls]
        # filtered before any pair is inserted, which would change what reads the others
        for output, activation in [(end, act) for end, act in outputs if end is not None and stays_integer(end)]:
            pairs = [pair for (values, *_), pair in self._pairs.items() if values is output]
            readers = [reader for reader in output.users if reader not in [pair.args[0] for pair in pairs]]
            if readers and (is_rectified(output) or not pairs):
                # the qparams of a layer that reads the value serve the others too
                pair = pairs[0] if pairs else self.insert(output, activation)
                for reader in readers:
                    reader.replace_input_with(output, pair)


def stays_integer(values: Node, known: dict[Node, bool] | None = None) -> bool:
    """Return whether every reader quantizes these values, at once or after operators with integer forms."""
    known = {} if known is None else known
    if values not in known:
        readers = list(values.users)
        known[values] = bool(readers) and all(_reads_integers(reader, known) for reader in readers)
    return known[values]


def _reads_integers(reader: Node, known: dict[Node, bool]) -> bool:
    if reader.target is ops.quantize_per_tensor.default:
        return True
    return reader.target in INTEGER_FORMS and stays_integer(reader, known)


def name_modules(last: Node, first: Node, stack: object) -> None:
    """Assign the nodes between `first` and `last` to these modules of the user's source."""
    for node in last.all_input_nodes:
        if node is not first and node.op != "placeholder" and "nn_module_stack" not in node.meta:
            name_modules(node, first, stack)
    last.meta.setdefault("nn_module_stack", stack)


def first_node_after(graph: Graph, values: Node) -> Node:
    """Return the node after these values, before which nodes that read them can be inserted."""
    if values.op != "placeholder":
        return values.next
    return next(node for node in cast(Iterable[Node], graph.nodes) if node.op != "placeholder")
