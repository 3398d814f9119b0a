"""Rewrite scatters as ONNX has them: with as many values as indices, and without a mean.

torch reads of the values what the indices cover, `src[:index.shape[0], …]`, and translates both as they are, which
onnxruntime refuses. It translates a mean to "the last value wins"; here it becomes a sum, a count and their quotient:

    mean[i] = (Σ src[j] over index[j] = i) / #{j : index[j] = i}

Where `include_self` is true, what was there before is one of the values; where it is not, places that no value reaches
keep what was there.
"""

from typing import cast

import torch
from torch.fx import Graph, GraphModule, Node
from torch.fx.experimental.symbolic_shapes import statically_known_true

from zeropoint.graph.program_state import add_node

aten = torch.ops.aten
_SCATTERS = (aten.scatter.src, aten.scatter.reduce, aten.scatter_add.default, aten.scatter_reduce.two)
"""All take what they scatter into, the dimension, the indices and the values."""


def rewrite_scatters(module: GraphModule) -> None:
    """Cut values to their indices, and replace every mean by a sum, a count and their quotient, in place."""
    graph = module.graph
    for node in [node for node in graph.nodes if node.target in _SCATTERS]:
        with graph.inserting_before(node):
            node.update_arg(3, _cut(graph, values=node.args[3], index=node.args[2]))
            if node.target is aten.scatter_reduce.two and node.args[4] == "mean":
                mean = _mean(graph, node, include_self=node.kwargs.get("include_self", True))
                node.replace_all_uses_with(mean)
                graph.erase_node(node)
    module.recompile()


def _cut(graph: Graph, values: Node, index: Node) -> Node:
    """Return the values that the indices cover."""
    sizes = zip(values.meta["val"].shape, index.meta["val"].shape, strict=True)
    for dim, (own, covered) in enumerate(sizes):
        if not statically_known_true(own == covered):
            end = covered if isinstance(covered, int) else add_node(graph, aten.sym_size.int, index, dim)
            values = add_node(graph, aten.slice.Tensor, values, dim, 0, end)
    return values


def _mean(graph: Graph, node: Node, *, include_self: bool) -> Node:
    before, dim, index, values = cast(tuple[Node, int, Node, Node], node.args[:4])
    zeros = add_node(graph, aten.zeros_like.default, before)
    start = add_node(graph, aten.ones_like.default, before) if include_self else zeros
    counted = add_node(graph, aten.ones_like.default, values)
    total = add_node(graph, aten.scatter_add.default, before if include_self else zeros, dim, index, values)
    count = add_node(graph, aten.scatter_add.default, start, dim, index, counted)
    divisor = add_node(graph, aten.clamp_min.default, count, 1)
    if before.meta["val"].is_floating_point():
        mean = add_node(graph, aten.div.Tensor, total, divisor)
    else:
        mean = add_node(graph, aten.div.Tensor_mode, total, divisor, rounding_mode="floor")
    return add_node(graph, aten.where.self, add_node(graph, aten.gt.Scalar, count, 0), mean, before)
