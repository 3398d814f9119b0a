"""Mixed precision: the layers that make far more noise than work stay in float.

In the order of the probe's noise for each multiply-accumulate, a layer stays in float while its share of the noise is
at least `min_ratio` times its share of all multiply-accumulates, as long as `max_share` of those, and of the weights,
is not passed and the model is predicted below `until_db`. Noise is taken to add up, which it does once means are
corrected: put the piece behind bias correction, and correct again behind it.
"""

from collections.abc import Mapping, Sequence

from zeropoint.algorithms.context import AlgorithmContext, Layers, with_unshared_weight
from zeropoint.schema.algorithms import MixedPrecision
from zeropoint.simulation.sensitivity import Sensitivity, by_noise_per_mac, predicted_db, probe


def keep_in_float(settings: MixedPrecision, context: AlgorithmContext, layers: Layers) -> Mapping[str, None]:
    """The layers to leave in float, as nothing in their place."""
    sensitivity = probe(context.source, with_unshared_weight(layers), context.calibration)
    return {} if sensitivity is None else dict.fromkeys(worth_leaving(sensitivity, settings), None)


def worth_leaving(sensitivity: Sensitivity, settings: MixedPrecision) -> list[str]:
    """Names, the best bargain first."""
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
    """Of the model's work, or of its weights, whichever is more."""
    parts = (sensitivity.macs, sensitivity.parameters)
    return max(sum(part.get(name, 0) for name in names) / max(sum(part.values()), 1) for part in parts)
