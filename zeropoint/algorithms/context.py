"""The input of every algorithm: the float model, calibration samples, and what is known about the layers."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from zeropoint.data.batches import Batches
from zeropoint.data.padding import mask_of
from zeropoint.layers.quantized_layer import QuantizedLayer
from zeropoint.model.hooks import AfterForward, hooked
from zeropoint.model.layer import Layer
from zeropoint.model.source import Source
from zeropoint.observers.statistics import Statistics

Layers = Mapping[str, QuantizedLayer]
"""Quantized layers by name."""


@dataclass(frozen=True)
class AlgorithmContext:
    """What every algorithm receives besides its settings and the quantized layers."""

    source: Source
    calibration: Batches
    statistics: Mapping[str, Statistics]
    """Layer -> statistics of its input."""
    sharing: Mapping[str, str] = field(default_factory=dict)
    """Layer -> the first layer that reads the same values, as query, key and value do."""
    norm_mappings: Mapping[str, str] = field(default_factory=dict)
    """Layer -> the normalization in front of it that can absorb a factor for each channel."""
    producers: Mapping[str, str] = field(default_factory=dict)
    """Layer -> the layer whose output it alone reads, through functions that keep a positive factor."""
    products: bool = True
    """Whether a layer may also read its input in float, to multiply it or to keep some channels in float."""

    def scalable_groups(self, names: Iterable[str]) -> list[list[str]]:
        """Return these layers grouped by the input that they share, without groups whose input can't be scaled.

        An input is scaled by a multiplication at run time, or by a normalization that feeds no other layers.
        """
        groups: dict[str, list[str]] = {}
        for name in names:
            groups.setdefault(self.sharing.get(name, name), []).append(name)
        return [group for group in groups.values() if self.products or self.norm_mapping(group) is not None]

    def norm_mapping(self, names: Sequence[str]) -> str | None:
        """Return the normalization that can absorb a factor for these layers; None if it also feeds other layers."""
        norm = self.norm_mappings.get(names[0])
        readers = {name for name, other in self.norm_mappings.items() if other == norm}
        return norm if readers <= set(names) else None

    def has_own_bias(self, layer: Layer) -> bool:
        """Return whether a layer's bias can change without affecting any other layer."""
        if layer.module is None or layer.channel_axis is None:
            return False
        if layer.bias is None:
            return not self.source.fixed
        biases = [other.bias_name for other in self.source.layers if other.module is not None]
        return layer.has_own_bias and biases.count(layer.bias_name) == 1


See = Callable[[str, Tensor, Tensor | None], None]
"""Called with a layer's name, the float tensor that is its module's input, and the mask of the batch."""


def watch_inputs(context: AlgorithmContext, layers: Layers, see: See) -> None:
    """Run the calibration samples once, and call `see` whenever the module of one of these layers runs."""
    mask: Tensor | None = None

    def hook_for(name: str) -> AfterForward:
        return lambda _, arguments, __: see(name, arguments[0].detach(), mask)

    modules = ((name, layer.layer.module) for name, layer in layers.items())
    hooks = [(module, hook_for(name)) for name, module in modules if module is not None]
    with torch.no_grad(), hooked(after=hooks):
        for batch in context.calibration:
            mask = mask_of(batch)
            context.source.reset()
            context.source.run(batch)
    context.source.reset()


def targeted(layers: Layers, layer_types: tuple[str, ...]) -> Layers:
    """Return the layers of these types or kinds, without those whose weight is shared: tied weights must stay equal."""
    return {
        n: layer
        for n, layer in with_unshared_weight(layers).items()
        if {layer.layer.type, layer.layer.kind} & set(layer_types) and not layer.layer.is_held
    }


def with_unshared_weight(layers: Layers) -> Layers:
    """Return the layers that share their weight with no other layer."""
    readers = Counter(layer.layer.weight_name for layer in layers.values())
    return {name: layer for name, layer in layers.items() if readers[layer.layer.weight_name] == 1}


def left_in_float(context: AlgorithmContext, layers: Layers, names: Iterable[str]) -> Layers:
    """Return the layers without these, which compute in float.

    A normalization that holds a factor for its readers can do so only while all of them are quantized. The factor of
    the others then becomes a multiplication at run time; where nothing can multiply there, they stay in float too.
    """
    leaving = set(names)
    norms = {layer.scaled_by for name, layer in layers.items() if name in leaving and layer.scaled_by is not None}
    bound = {name for name, layer in layers.items() if layer.scaled_by in norms}
    if not context.products:
        leaving |= bound
    return {
        name: replace(layer, scaled_by=None) if name in bound else layer
        for name, layer in layers.items()
        if name not in leaving
    }
