"""MSE clipping: replace an input's range by the one with the least quantization error.

It helps convolutions, whose inputs have thin tails, but not transformers, which depend on their outliers. Source and
formula: `observers.mse`. One sample unlike the others can widen a range, and so coarsen its steps for all of them: with
`ignore_outliers` its values don't count. Smoothed and split layers are left out, since their input no longer matches
the histogram.
"""

from dataclasses import replace

from zeropoint.algorithms.context import AlgorithmContext, Layers, targeted
from zeropoint.layers.quantized_layer import Activation, QuantizedLayer, input_spec
from zeropoint.observers.mse import Mse, without_outliers
from zeropoint.observers.statistics import Statistics
from zeropoint.schema.algorithms import MseClipping


def clip(settings: MseClipping, context: AlgorithmContext, layers: Layers) -> Layers:
    """Return the layers with static integer inputs, with the qparams of the clipped range."""
    changed = {}
    for name, layer in targeted(layers, settings.layer_types).items():
        statistics = context.statistics.get(name)
        if statistics is not None and statistics.histogram is not None and _can(layer):
            counted = without_outliers(statistics) if settings.ignore_outliers else statistics
            changed[name] = replace(layer, activation=_clipped(layer, counted))
    return changed


def _can(layer: QuantizedLayer) -> bool:
    plain = layer.pre_quant_scale is None and layer.outliers is None
    return plain and layer.activation is not None and layer.activation.settings.dtype != "float8_e4m3"


def _clipped(layer: QuantizedLayer, statistics: Statistics) -> Activation:
    assert layer.activation is not None
    settings = layer.activation.settings
    target = input_spec(layer.layer, settings)
    return Activation.choose(settings, target, *Mse().of_statistics(statistics, target))
