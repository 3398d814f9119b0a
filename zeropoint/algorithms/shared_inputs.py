"""Find the layers that read the same values, whose input can then be scaled once for all of them."""

from collections.abc import Callable, Sequence
from weakref import ref

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from zeropoint.model.hooks import hooked
from zeropoint.model.source import Source


def same_inputs(source: Source, batch: Sequence[Tensor]) -> dict[str, str]:
    """Return layer -> the first layer that reads the same tensor, from the graph, or by running a module on `batch`."""
    layers = [(layer.name, layer.module) for layer in source.layers if not layer.is_held]
    modules = {id(module): name for name, module in layers if module is not None}
    if isinstance(source.module, GraphModule):
        return _of_graph(source.module, modules)
    return _of_run(source, modules, batch)


def _of_graph(module: GraphModule, names: dict[int, str]) -> dict[str, str]:
    firsts: dict[object, str] = {}
    sharing: dict[str, str] = {}
    for node in module.graph.nodes:
        name = names.get(id(module.get_submodule(node.target))) if node.op == "call_module" else None
        if name is not None:
            sharing.setdefault(name, firsts.setdefault(node.args[0], name))
    return sharing


def _of_run(source: Source, names: dict[int, str], batch: Sequence[Tensor]) -> dict[str, str]:
    seen: list[tuple[Callable[[], Tensor | None], int, str]] = []
    sharing: dict[str, str] = {}

    def look(module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        values, name = arguments[0], names[id(module)]
        version = values._version  # a write in place makes it another tensor
        first = next((first for known, then, first in seen if known() is values and then == version), name)
        seen.append((ref(values), version, name))
        sharing.setdefault(name, first)

    layers = [layer.module for layer in source.layers if layer.module is not None and id(layer.module) in names]
    with torch.no_grad(), hooked(before=((module, look) for module in layers)):
        source.run(batch)
    source.reset()
    return sharing
