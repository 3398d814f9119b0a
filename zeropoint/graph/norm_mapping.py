"""Which normalization can carry the factors of the layers behind it, so that nothing has to multiply by them.

    norm(x) · s = norm with weight · s and bias · s

That is exact where layers are all that reads the normalization, as in a transformer block that normalizes first. BERT
normalizes sums that go on into the next sum, where another scale would be another value.
"""

from collections.abc import Iterator, Mapping

import torch
from torch.fx import Node

from zeropoint.graph.calls import LayerCall, layer_calls, stored_names
from zeropoint.model.source import ProgramSource

aten = torch.ops.aten
_NORMALIZATIONS: Mapping[object, tuple[int, int | None]] = {
    aten.layer_norm.default: (2, 3),
    aten.native_layer_norm.default: (2, 3),
    aten.rms_norm.default: (2, None),
}
"""Which argument is the weight, and which the bias."""
_VIEWS = (aten.view.default, aten.reshape.default, aten._unsafe_view.default, aten.clone.default)


def norm_mappings(source: ProgramSource) -> dict[str, str]:
    """Layer name -> name of the normalization whose weight (and bias) can carry its factors.

    Layers of one normalization read the same values: it carries what is the same for all of them, or nothing.
    """
    graph, names = source.program.graph, stored_names(source.program)
    linear = {layer.name for layer in source.layers if layer.kind == "Linear"}
    calls = layer_calls(graph, names)
    layer_of = {call.node: layer for layer, places in calls.items() if layer in linear for call in places}
    found: dict[str, str] = {}
    for node in graph.nodes:
        name = _name(node, names)
        readers = None if name is None else _readers(node)
        if name is None or not readers or not readers.keys() <= layer_of.keys():
            continue
        layers = {layer_of[reader] for reader in readers}
        if all(_reads(call, readers) for layer in layers for call in calls[layer]):
            found |= dict.fromkeys(layers, name)
    return found


def _name(node: Node, names: Mapping[str, str]) -> str | None:
    """The name of a normalization over the last dimension, when its own tensors are read by it alone."""
    if node.target in _NORMALIZATIONS:
        positions = [position for position in _NORMALIZATIONS[node.target] if position is not None]
        tensors = [node.args[position] for position in positions if position < len(node.args)]
    elif node.target is aten.mul.Tensor:  # a normalization in several operators ends with its weight
        tensors = [argument for argument in node.args if isinstance(argument, Node) and argument.name in names]
    else:
        return None
    own = [tensor for tensor in tensors if isinstance(tensor, Node)]
    stored = [names.get(tensor.name, "") for tensor in own]
    name = stored[0].removesuffix(".weight") if stored else ""
    private = all(len(tensor.users) == 1 and tensor.meta["val"].dim() == 1 for tensor in own)
    expected = [f"{name}.{part}" for part in ("weight", "bias")][: len(stored)]
    whole = len(stored) == 2 or f"{name}.bias" not in names.values()
    return name if stored and stored == expected and private and whole else None


def _readers(node: Node) -> dict[Node, Node]:
    """Whatever computes with the values, behind views that keep the last dimension -> what it reads of them."""
    return dict(_followed(_first_of(node) or node))


def _followed(values: Node) -> Iterator[tuple[Node, Node]]:
    for reader in values.users:
        if reader.target in _VIEWS and reader.meta["val"].shape[-1:] == values.meta["val"].shape[-1:]:
            yield from _followed(reader)
        else:
            yield reader, values


def _first_of(node: Node) -> Node | None:
    """Of a normalization that also gives its statistics: its values, when nothing reads the others."""
    items = list(node.users)
    values = [item for item in items if item.args[1:] == (0,)]
    return values[0] if node.target is aten.native_layer_norm.default and len(items) == len(values) == 1 else None


def _reads(call: LayerCall, readers: Mapping[Node, Node]) -> bool:
    return call.node in readers and readers[call.node] is call.input
