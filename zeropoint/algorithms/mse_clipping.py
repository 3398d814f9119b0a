"""MSE clipping: an input's range is the one with the least quantization error, in place of the recipe's observer.

It pays for convolutions, whose inputs have thin tails; a transformer lives on its outliers. Source and formula:
`observers.mse`. Layers that are smoothed or split are left out: a histogram of all channels says nothing of them.
"""

from dataclasses import replace

from zeropoint.algorithms.context import AlgorithmContext, Layers, targeted
from zeropoint.layers.quantized_layer import Activation, QuantizedLayer, input_spec
from zeropoint.observers.mse import Mse
from zeropoint.observers.statistics import Statistics
from zeropoint.schema.algorithms import MseClipping


def clip(settings: MseClipping, context: AlgorithmContext, layers: Layers) -> Layers:
    """The layers with evenly spaced static inputs, on the clipped grid."""
    changed = {}
    for name, layer in targeted(layers, settings.layer_types).items():
        statistics = context.statistics.get(name)
        if statistics is not None and statistics.histogram is not None and _can(layer):
            changed[name] = replace(layer, activation=_clipped(layer, statistics))
    return changed


def _can(layer: QuantizedLayer) -> bool:
    plain = layer.pre_quant_scale is None and layer.outliers is None
    return plain and layer.activation is not None and layer.activation.settings.dtype != "float8_e4m3"


def _clipped(layer: QuantizedLayer, statistics: Statistics) -> Activation:
    assert layer.activation is not None
    settings = layer.activation.settings
    target = input_spec(layer.layer, settings)
    return Activation.choose(settings, target, *Mse().of_statistics(statistics, target))
