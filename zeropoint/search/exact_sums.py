"""Make a result exact on every processor, after all that was decided, and say what that costs."""

from collections.abc import Mapping

from zeropoint.algorithms.bias_correction import correct_biases
from zeropoint.algorithms.context import AlgorithmContext, Layers
from zeropoint.algorithms.pair_limits import limit_pairs
from zeropoint.layers.quantized_layer import QuantizedLayer
from zeropoint.metrics.sqnr import finite
from zeropoint.schema.algorithms import BiasCorrection
from zeropoint.schema.decisions import PairLimitsReport
from zeropoint.simulation.measure import Evaluator


def with_exact_sums(
    context: AlgorithmContext, samples: Evaluator, layers: Layers
) -> tuple[Layers, PairLimitsReport | None]:
    """Return the layers with pairs of weights limited, and what the report says of it; None if nothing had to change.

    The biases of the changed layers are corrected if that lowers the noise on `samples`.
    """
    limited = limit_pairs(context, layers)
    if not limited:
        return layers, None
    before, plain = samples.noise(layers.values()), {**layers, **limited}
    corrected = {**plain, **_corrected(context, plain, limited)}
    noise, result = samples.noise(plain.values()), plain
    if (better := samples.noise(corrected.values())).noise < noise.noise:
        noise, result = better, corrected
    outputs = sum(layer.limited_outputs for layer in limited.values())
    return result, PairLimitsReport(
        layers=len(limited), outputs=outputs, before_db=finite(before.db), after_db=finite(noise.db)
    )


def _corrected(context: AlgorithmContext, layers: Layers, limited: Mapping[str, QuantizedLayer]) -> Layers:
    """Return the layers whose biases move: those that were limited, and those that were corrected before."""
    corrected = correct_biases(BiasCorrection(), context, layers)
    return {n: layer for n, layer in corrected.items() if n in limited or layers[n].bias is not None}
