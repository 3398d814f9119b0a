"""The bench that algorithms work at: the float model, samples to calibrate with, and what is known of its layers."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from quantization.layers import QuantizedLayer
from quantization.samples import Batches
from quantization.sources.source import Layer, Source
from quantization.statistics import Statistics

Layers = Mapping[str, QuantizedLayer]
"""By layer name."""


@dataclass(frozen=True)
class Bench:
    """What every algorithm is given beside its settings and the layers as they are."""

    source: Source
    calibration: Batches
    statistics: Mapping[str, Statistics]
    """Of layers' inputs."""
    sharing: Mapping[str, str] = field(default_factory=dict)
    """Layer -> the first layer that is given the same values: query, key and value."""
    carriers: Mapping[str, str] = field(default_factory=dict)
    """Layer -> the normalization in front of it that can carry a factor of each channel."""
    may_add_bias: bool = True
    """Whether a layer without a bias may get one."""

    def has_own_bias(self, layer: Layer) -> bool:
        """Whether a layer's bias can change without changing anything else's."""
        if layer.module is None or layer.channel_axis is None:
            return False
        biases = [id(other.bias) for other in self.source.layers if other.module is not None]
        return self.may_add_bias if layer.bias is None else biases.count(id(layer.bias)) == 1


def meant(layers: Layers, layer_types: tuple[str, ...]) -> Layers:
    """The layers of these types, or kinds, whose weights nothing else reads: what is tied must stay alike."""
    return {n: one for n, one in untied(layers).items() if {one.layer.type, one.layer.kind} & set(layer_types)}


def untied(layers: Layers) -> Layers:
    """The layers whose weights are no other layer's."""
    readers = Counter(one.layer.weight_name for one in layers.values())
    return {name: one for name, one in layers.items() if readers[one.layer.weight_name] == 1}
