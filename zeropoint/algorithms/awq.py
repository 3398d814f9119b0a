"""AWQ: scale up weight columns that meet large inputs before rounding, and scale the inputs down by the same factors.

    y = (x / s) · Q(s · W)ᵀ,   s_c = (mean|x_c| / √(min · max))^β,   β the best of 0, 1/20, …, 1

Source: Lin et al., "AWQ" (MLSys 2024), section 3.2. The best β has the least Σ_c mean|x_c|² · ‖W_c − Ŵ_c‖², which is
the output's error if channels are uncorrelated, and needs no forward pass. Layers that read the same values share s.
"""

from dataclasses import replace

from torch import Tensor

from zeropoint.algorithms.context import AlgorithmContext, Layers, targeted
from zeropoint.layers.quantize import requantize_layer
from zeropoint.layers.quantized_layer import QuantizedLayer
from zeropoint.schema.algorithms import Awq

TRIALS = 20
SMALLEST = 1e-4


def scale_by_activations(settings: Awq, context: AlgorithmContext, layers: Layers) -> Layers:
    """Return the weight-only integer linears, quantized again with scaled columns."""
    eligible = {name: layer for name, layer in targeted(layers, settings.layer_types).items() if _can(layer, context)}
    changed: dict[str, QuantizedLayer] = {}
    for names in context.scalable_groups(eligible):
        magnitude = _magnitude(context, names[0])
        trials = [_requantized(eligible, names, factors(magnitude, trial / TRIALS)) for trial in range(TRIALS + 1)]
        best = min(trials, key=lambda group: sum(_error(layer, magnitude) for layer in group.values()))
        changed |= {n: replace(layer, scaled_by=context.norm_mapping(names)) for n, layer in best.items()}
    return changed


def factors(magnitude: Tensor, power: float) -> Tensor:
    """Return the scale s [in] for mean|x| [in] and β = `power`."""
    scale = magnitude.clamp(min=SMALLEST * max(float(magnitude.max()), SMALLEST)) ** power
    return scale / (scale.min() * scale.max()).sqrt()


def _requantized(layers: Layers, names: list[str], scale: Tensor) -> dict[str, QuantizedLayer]:
    return {name: requantize_layer(layers[name], None, 1 / scale, None) for name in names}


def _error(layer: QuantizedLayer, magnitude: Tensor) -> float:
    wrong = layer.effective_weight - layer.layer.weight.cpu().float()
    return float((wrong.square().sum(0) * magnitude.square()).sum())


def _magnitude(context: AlgorithmContext, name: str) -> Tensor:
    channels = context.statistics[name].channels
    assert channels is not None
    return channels.magnitude


def _can(layer: QuantizedLayer, context: AlgorithmContext) -> bool:
    statistics = context.statistics.get(layer.layer.name)
    known = statistics is not None and statistics.channels is not None
    return known and layer.layer.kind == "Linear" and layer.activation is None and layer.qparams is not None
