"""Map layers to the normalization before them that can absorb their input scales, so that no product is needed.

    norm(x) · s = norm with weight · s and bias · s

That is exact if only these layers read the normalization, as in a transformer block that normalizes first. BERT adds
the normalized values to a later sum, which another scale would change.
"""

from collections.abc import Iterator, Mapping

import torch
from torch.fx import Node

from zeropoint.graph.calls import stored_names
from zeropoint.model.layer_call import LayerCall
from zeropoint.model.source import ProgramSource

aten = torch.ops.aten
_NORMALIZATIONS: Mapping[object, tuple[int, int | None]] = {
    aten.layer_norm.default: (2, 3),
    aten.native_layer_norm.default: (2, 3),
    aten.rms_norm.default: (2, None),
}
"""The positions of the weight and the bias among the arguments."""
_VIEWS = (aten.view.default, aten.reshape.default, aten._unsafe_view.default, aten.clone.default)


def norm_mappings(source: ProgramSource) -> dict[str, str]:
    """Return layer name -> name of the normalization whose weight (and bias) can absorb its input scale.

    Layers after one normalization read the same values, so it can absorb only a scale that is the same for all of them.
    """
    graph, names = source.program.graph, stored_names(source.program)
    linear = {layer.name for layer in source.layers if layer.kind == "Linear"}
    calls = source.calls
    layer_of = {call.node: layer for layer, places in calls.items() if layer in linear for call in places}
    mappings: dict[str, str] = {}
    for node in graph.nodes:
        name = _name(node, names)
        readers = None if name is None else _readers(node)
        if name is None or not readers or not readers.keys() <= layer_of.keys():
            continue
        layers = {layer_of[reader] for reader in readers}
        if all(_reads(call, readers) for layer in layers for call in calls[layer]):
            mappings |= dict.fromkeys(layers, name)
    return mappings


def _name(node: Node, names: Mapping[str, str]) -> str | None:
    """Return the name of a normalization over the last dimension if it alone reads its tensors; else None."""
    if node.target in _NORMALIZATIONS:
        positions = [position for position in _NORMALIZATIONS[node.target] if position is not None]
        tensors = [node.args[position] for position in positions if position < len(node.args)]
    elif node.target is aten.mul.Tensor:  # a normalization in several operators ends with its weight
        tensors = [argument for argument in node.args if isinstance(argument, Node) and argument.name in names]
    else:
        return None
    parameters = [tensor for tensor in tensors if isinstance(tensor, Node)]
    stored_names = [names.get(tensor.name, "") for tensor in parameters]
    name = stored_names[0].removesuffix(".weight") if stored_names else ""
    private = all(len(tensor.users) == 1 and tensor.meta["val"].dim() == 1 for tensor in parameters)
    expected = [f"{name}.{part}" for part in ("weight", "bias")][: len(stored_names)]
    is_complete = len(stored_names) == 2 or f"{name}.bias" not in names.values()
    return name if stored_names and stored_names == expected and private and is_complete else None


def _readers(node: Node) -> dict[Node, Node]:
    """Return the nodes that compute with the values, after views that keep the last dimension -> what each reads."""
    return dict(_followed(_first_of(node) or node))


def _followed(values: Node) -> Iterator[tuple[Node, Node]]:
    for reader in values.users:
        if reader.target in _VIEWS and reader.meta["val"].shape[-1:] == values.meta["val"].shape[-1:]:
            yield from _followed(reader)
        else:
            yield reader, values


def _first_of(node: Node) -> Node | None:
    """Return the values of a normalization that also returns its statistics, if nothing reads those."""
    items = list(node.users)
    values = [item for item in items if item.args[1:] == (0,)]
    return values[0] if node.target is aten.native_layer_norm.default and len(items) == len(values) == 1 else None


def _reads(call: LayerCall, readers: Mapping[Node, Node]) -> bool:
    return call.node in readers and readers[call.node] is call.input
