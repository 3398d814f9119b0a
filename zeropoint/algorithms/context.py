"""The bench that algorithms work at: the float model, samples to calibrate with, and what is known of its layers."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from zeropoint.data.batches import Batches
from zeropoint.layers.quantized_layer import QuantizedLayer
from zeropoint.model.layer import Layer
from zeropoint.model.source import Source
from zeropoint.observers.statistics import Statistics

Layers = Mapping[str, QuantizedLayer]
"""By layer name."""


@dataclass(frozen=True)
class AlgorithmContext:
    """What every algorithm is given beside its settings and the layers as they are."""

    source: Source
    calibration: Batches
    statistics: Mapping[str, Statistics]
    """Of layers' inputs."""
    sharing: Mapping[str, str] = field(default_factory=dict)
    """Layer -> the first layer that is given the same values: query, key and value."""
    norm_mappings: Mapping[str, str] = field(default_factory=dict)
    """Layer -> the normalization in front of it that can carry a factor of each channel."""
    products: bool = True
    """Whether a layer may read its input in float beside its integers: to multiply it, or to put channels aside."""

    def scalable_groups(self, names: Iterable[str]) -> list[list[str]]:
        """These layers by the input that they share, where it can be multiplied in what is written: by a product of its
        own, or by a normalization that all who read it agree on."""
        groups: dict[str, list[str]] = {}
        for name in names:
            groups.setdefault(self.sharing.get(name, name), []).append(name)
        return [group for group in groups.values() if self.products or self.norm_mapping(group) is not None]

    def norm_mapping(self, names: Sequence[str]) -> str | None:
        """The normalization that can carry a factor for these layers; None where a reader is not among them."""
        norm = self.norm_mappings.get(names[0])
        readers = {name for name, other in self.norm_mappings.items() if other == norm}
        return norm if readers <= set(names) else None

    def has_own_bias(self, layer: Layer) -> bool:
        """Whether a layer's bias can change without changing anything else's."""
        if layer.module is None or layer.channel_axis is None:
            return False
        biases = [id(other.bias) for other in self.source.layers if other.module is not None]
        return not self.source.fixed if layer.bias is None else biases.count(id(layer.bias)) == 1


def targeted(layers: Layers, layer_types: tuple[str, ...]) -> Layers:
    """The layers of these types, or kinds, whose weights nothing else reads: what is tied must stay alike."""
    return {
        n: layer
        for n, layer in with_unshared_weight(layers).items()
        if {layer.layer.type, layer.layer.kind} & set(layer_types)
    }


def with_unshared_weight(layers: Layers) -> Layers:
    """The layers whose weights are no other layer's."""
    readers = Counter(layer.layer.weight_name for layer in layers.values())
    return {name: layer for name, layer in layers.items() if readers[layer.layer.weight_name] == 1}
