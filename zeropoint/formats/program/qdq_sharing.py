"""Share Q/DQ pairs between layers that read one value, and insert pairs where integers can stay integers.

Formats for runtimes that run a convolution on integers only when its result is quantized at once also get a pair at a
convolution's fused output, and every reader reads from it (`graph.integer_outputs` has the rules).
"""

from collections.abc import Iterable
from typing import cast

from torch.fx import Graph, Node

from zeropoint.formats.program.qdq import insert_qdq, ops
from zeropoint.graph.fused_outputs import fused_output
from zeropoint.graph.integer_outputs import becomes_integer
from zeropoint.layers.quantized_layer import Activation
from zeropoint.model.layer_call import LayerCall
from zeropoint.primitives.qparams import QuantType


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
        for output, activation in [(end, act) for end, act in outputs if end and becomes_integer(end, _quantizes)]:
            pairs = [pair for (values, *_), pair in self._pairs.items() if values is output]
            readers = [reader for reader in output.users if reader not in [pair.args[0] for pair in pairs]]
            if readers:
                # the qparams of a layer that reads the value serve the others too
                pair = pairs[0] if pairs else self.insert(output, activation)
                for reader in readers:
                    reader.replace_input_with(output, pair)


def _quantizes(reader: Node, _: Node) -> bool:
    return reader.target is ops.quantize_per_tensor.default


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
