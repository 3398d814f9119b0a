"""Fused outputs: a convolution's values after the normalization and the activation that runtimes fuse into it.

    convolution ── batch norm ── ReLU ──▶ fused output

A step is included only if nothing else reads the value before it. A runtime with an int8 convolution writes its result
as integers, so it needs the range of the values at the fused output, and of none in between.
"""

from collections.abc import Collection, Mapping, Sequence

import torch
from torch import nn
from torch.fx import GraphModule, Node

from zeropoint.model.layer import LayerKind
from zeropoint.model.layer_call import LayerCall

aten = torch.ops.aten

CONVOLUTIONS: tuple[LayerKind, ...] = ("Conv1d", "Conv2d", "Conv3d")
FUSED_OUTPUTS = "zeropoint_outlets"
"""Prefix of the fused outputs inside the graph module; the leaves have another."""

_SEVERAL = (aten._native_batch_norm_legit_no_training.default, aten.native_batch_norm.default)
_NORMALIZATIONS = (aten.batch_norm.default, *_SEVERAL)
_ACTIVATIONS = (aten.relu.default, aten.hardtanh.default, aten.relu6.default, aten.clamp.default)


def fused_output(call: LayerCall) -> Node | None:
    """Return the node of the fused output; None when the call is not a convolution."""
    if call.kind not in CONVOLUTIONS:
        return None
    end = normalized(call) or call.node
    return _only_reader(end, _ACTIVATIONS) or end


def normalized(call: LayerCall) -> Node | None:
    """Return the node of a convolution's normalized result; None if something else reads the result."""
    return _only_reader(call.node, _NORMALIZATIONS)


def is_rectified(end: Node) -> bool:
    """Return whether the fused output ends with an activation that clips its values."""
    return end.target in _ACTIVATIONS


def insert_fused_outputs(module: GraphModule, calls: Mapping[str, Sequence[LayerCall]]) -> dict[str, nn.Module]:
    """Insert an `nn.Identity` at each fused output of the runnable `module`, for hooks; return them by layer.

    `calls` refer to the exported graph; the runnable graph has the same nodes under the same names.
    """
    nodes = {node.name: node for node in module.graph.nodes}
    fused_outputs: dict[str, nn.Module] = {}
    for name, places in calls.items():
        for end in [node for node in map(fused_output, places) if node is not None]:
            fused_outputs.setdefault(name, nn.Identity())
            _pass_through(module, nodes[end.name], f"{FUSED_OUTPUTS}.{name}", fused_outputs[name])
    module.recompile()
    return fused_outputs


def _pass_through(module: GraphModule, values: Node, target: str, identity: nn.Module) -> None:
    readers = list(values.users)
    module.add_submodule(target, identity)
    with module.graph.inserting_after(values):
        passed = module.graph.call_module(target, (values,))
    for reader in readers:
        reader.replace_input_with(values, passed)


def _only_reader(values: Node, targets: Collection[object]) -> Node | None:
    """Return the one node that reads `values`, as its first argument, if it calls one of `targets`."""
    readers = list(values.users)
    if len(readers) != 1 or readers[0].target not in targets or readers[0].args[0] is not values:
        return None
    return _first_of(readers[0]) if readers[0].target in _SEVERAL else readers[0]


def _first_of(several: Node) -> Node | None:
    """Return the first of a node's several results if nothing reads the others."""
    items = list(several.users)
    return items[0] if [item.args[1:] for item in items] == [(0,)] else None
