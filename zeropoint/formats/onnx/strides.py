"""Rewrite operators whose translation depends on strides, which ONNX doesn't have.

A `view` needs values that lie in memory as it wants them. torch traces the program again to translate it, and attention
then leaves them in another order than the kernel of the export did. So heads that were joined by `transpose` and `view`
could not be: here every view is a reshape, and attention gives values in the order of their dimensions.

torch decomposes an adaptive average pool to one value into a mean and, where its input is channels_last, into
`as_strided`, which only says how the values lie in memory. In ONNX that becomes a gather over computed indices, which
OpenVINO computes wrongly: 21 dB where there should be 51.
"""

from operator import getitem

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Node
from torch.fx.experimental.symbolic_shapes import statically_known_true

from zeropoint.graph.program_state import add_node

aten = torch.ops.aten
_POOLS = {
    aten.adaptive_avg_pool1d.default: 1,
    aten.adaptive_avg_pool2d.default: 2,
    aten._adaptive_avg_pool2d.default: 2,
    aten.adaptive_avg_pool3d.default: 3,
    aten._adaptive_avg_pool3d.default: 3,
}
"""Pools, and over how many dimensions each of them goes."""


def forget_strides(module: GraphModule) -> None:
    """Replace what depends on strides in place: views, attention, pools to one value, needless `as_strided`."""
    graph = module.graph
    for node in list(graph.nodes):
        replacement = None
        if node.target is aten.view.default:
            node.target = aten.reshape.default
        elif "scaled_dot_product" in str(node.target):
            _order(graph, node)
        elif node.target in _POOLS and all(size == 1 for size in node.args[1]):
            with graph.inserting_before(node):
                dims = list(range(-_POOLS[node.target], 0))
                replacement = add_node(graph, aten.mean.dim, node.args[0], dims, True)
        elif node.target is aten.as_strided.default and _changes_nothing(node):
            replacement = node.args[0]
        if replacement is not None:
            node.replace_all_uses_with(replacement)
            graph.erase_node(node)
    module.recompile()


def _order(graph: Graph, attention: Node) -> None:
    """Put a copy behind attention, or behind its first result of several, whose strides follow from its sizes."""
    results = [attention] if isinstance(attention.meta["val"], Tensor) else list(attention.users)
    for result in results:
        if result is attention or (result.target is getitem and result.args[1] == 0):
            readers = list(result.users)
            with graph.inserting_after(result):
                copy = add_node(graph, aten.clone.default, result, memory_format=torch.contiguous_format)
            for reader in readers:
                reader.replace_input_with(result, copy)


def _changes_nothing(node: Node) -> bool:
    """Return whether the sizes stay, and the strides of all dimensions that have more than one value."""
    before, after = node.all_input_nodes[0].meta["val"], node.meta["val"]
    if before.dim() != after.dim() or not statically_known_true(before.storage_offset() == after.storage_offset()):
        return False
    sizes = zip(before.shape, after.shape, before.stride(), after.stride(), strict=True)
    return all(
        statically_known_true(old == new) and (statically_known_true(new == 1) or statically_known_true(was == now))
        for old, new, was, now in sizes
    )
