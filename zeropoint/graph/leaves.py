"""Replace operators by `nn` leaves: `aten.linear(x, w, b)` becomes a call of an `nn.Linear` that holds w and b."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.fx import GraphModule

from zeropoint.graph.calls import LayerCall, stored_names
from zeropoint.model.layer import TRANSPOSED

LEAVES = "zeropoint_leaves"
"""Prefix of the leaves inside the graph module, which keeps them apart from the user's own names."""


def insert_leaves(
    module: GraphModule, program: ExportedProgram, calls: dict[str, list[LayerCall]]
) -> dict[str, nn.Module]:
    """Replace each call of a layer in the runnable `module` by a call of one leaf; return the leaves by layer name.

    `calls` refer to the exported graph; the runnable graph has the same operator nodes under the same names.
    """
    nodes = {node.name: node for node in module.graph.nodes}
    leaves: dict[str, nn.Module] = {}
    for name, places in calls.items():
        leaves[name] = _leaf(program, places[0])
        target = f"{LEAVES}.{name}"
        module.add_submodule(target, leaves[name])
        for call in places:
            node = nodes[call.node.name]
            with module.graph.inserting_before(node):
                replacement = module.graph.call_module(target, (node.args[call.input_index],))
            node.replace_all_uses_with(replacement)
            module.graph.erase_node(node)
            nodes[call.node.name] = replacement
    module.graph.eliminate_dead_code()
    module.recompile()
    return leaves


def _leaf(program: ExportedProgram, call: LayerCall) -> nn.Module:
    names = stored_names(program)
    weight = program.state_dict[names[call.weight.name]].detach()
    bias = None if call.bias is None else program.state_dict[names[call.bias.name]].detach()
    with torch.device("meta"):
        leaf = _empty(call, weight)
    leaf.weight = nn.Parameter(weight, requires_grad=False)
    if call.kind != "Embedding":
        leaf.register_parameter("bias", None if bias is None else nn.Parameter(bias, requires_grad=False))
    return leaf.eval()


def _empty(call: LayerCall, weight: Tensor) -> nn.Module:
    """Return a module of the call's kind and options.

    Weights are [out, in / groups, ...], those of transposed convolutions [in, out / groups, ...].
    """
    rows, columns = weight.shape[:2]
    if call.kind == "Linear":
        return nn.Linear(columns, rows, bias=False)
    if call.kind == "Embedding":
        return nn.Embedding(rows, columns)
    options = {key: value if isinstance(value, int | str) else tuple(value) for key, value in call.options.items()}
    groups = call.options.get("groups", 1)
    inputs, outputs = (rows, columns * groups) if call.kind in TRANSPOSED else (columns * groups, rows)
    convolution: Any = getattr(nn, call.kind)
    leaf: nn.Module = convolution(inputs, outputs, tuple(weight.shape[2:]), bias=False, **options)
    return leaf
