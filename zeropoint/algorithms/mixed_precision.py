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
    found = probe(context.source, with_unshared_weight(layers), context.calibration)
    return {} if found is None else dict.fromkeys(worth_leaving(found, settings), None)


def worth_leaving(found: Sensitivity, settings: MixedPrecision) -> list[str]:
    """Names, the best bargain first."""
    work, noise = sum(found.macs.values()), sum(found.noise.values())
    chosen: list[str] = []
    left = noise
    for name in by_noise_per_mac(found):
        if left <= 0 or predicted_db(found.signal, left) >= settings.until_db:
            break
        worth = found.noise[name] / noise >= settings.min_ratio * found.macs[name] / work
        if worth and _share(found, [*chosen, name]) <= settings.max_share:
            chosen.append(name)
            left -= found.noise[name]
    return chosen


def _share(found: Sensitivity, names: Sequence[str]) -> float:
    """Of the model's work, or of its weights, whichever is more."""
    parts = (found.macs, found.parameters)
    return max(sum(part.get(name, 0) for name in names) / max(sum(part.values()), 1) for part in parts)
