"""Mixed precision: leave in float the layers whose noise is large for the work they do.

Layers are considered in order of noise per multiply-accumulate, as the probe measures it. A layer is left in float if
its share of the noise is at least `min_ratio` times its share of the multiply-accumulates, and if float layers then
have at most `max_share` of the multiply-accumulates and of the weights. The search ends once the predicted SQNR
reaches `until_db`. The prediction adds up the noise of layers, which holds once mean errors are corrected: run bias
correction before this algorithm, and again after it.
"""

from collections.abc import Mapping, Sequence

from zeropoint.algorithms.context import AlgorithmContext, Layers, with_unshared_weight
from zeropoint.schema.algorithms import MixedPrecision
from zeropoint.simulation.sensitivity import Sensitivity, by_noise_per_mac, predicted_db, probe


def keep_in_float(settings: MixedPrecision, context: AlgorithmContext, layers: Layers) -> Mapping[str, None]:
    """Return the names of the layers to leave in float, each with None."""
    sensitivity = probe(context.source, with_unshared_weight(layers), context.calibration)
    return {} if sensitivity is None else dict.fromkeys(worth_leaving(sensitivity, settings), None)


def worth_leaving(sensitivity: Sensitivity, settings: MixedPrecision) -> list[str]:
    """Return the names of the layers to leave in float, in order of noise removed per multiply-accumulate."""
    work, noise = sum(sensitivity.macs.values()), sum(sensitivity.noise.values())
    chosen: list[str] = []
    remaining = noise
    for name in by_noise_per_mac(sensitivity):
        if remaining <= 0 or predicted_db(sensitivity.signal, remaining) >= settings.until_db:
            break
        worth = sensitivity.noise[name] / noise >= settings.min_ratio * sensitivity.macs[name] / work
        if worth and _share(sensitivity, [*chosen, name]) <= settings.max_share:
            chosen.append(name)
            remaining -= sensitivity.noise[name]
    return chosen


def _share(sensitivity: Sensitivity, names: Sequence[str]) -> float:
    """Return these layers' share of the multiply-accumulates or of the weights, whichever is larger."""
    parts = (sensitivity.macs, sensitivity.parameters)
    return max(sum(part.get(name, 0) for name in names) / max(sum(part.values()), 1) for part in parts)
