"""Cast the noisiest layers that took a recipe's fallback to float16, where int8 costs the model accuracy.

int4 leaves to int8 what it can't hold. With convolutions that weigh little, or depthwise ones, int8 may cost more than
int4 does: EfficientNet-Lite0 lost 5 dB. So layers are cast, those with the most noise for their bytes first, until the
model is as accurate as with all of them in float, to within `MOST_LOSS_DB`. Where nothing but the fallback quantizes,
that would be all of them: these models stay int8, as they would with int8-weight-only.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

import torch

from zeropoint.algorithms.context import AlgorithmContext, Layers, left_in_float
from zeropoint.layers.quantize import with_quantized_values
from zeropoint.layers.quantized_layer import QuantizedLayer
from zeropoint.layers.selection import FALLBACK_CAST, took_fallback
from zeropoint.metrics.sqnr import Noise
from zeropoint.schema.recipe import Recipe
from zeropoint.search.trial import Candidate, try_algorithms
from zeropoint.simulation.measure import Evaluator
from zeropoint.simulation.sensitivity import probe

FITTED = ("gptq", "bias_correction")
"""Algorithms that fit a layer to what the layers before it compute; these are others once some are cast."""
MOST_LOSS_DB = 0.1
"""What int8 may cost on the acceptance samples, against these layers in float."""
ENOUGH_DB = 60.0
"""An SQNR beyond which no layer is cast: float16 itself gives little more."""
FINE_CAST_DB = 50.0
"""The least SQNR of a weight in float16. Tiny or huge weights have less, and stay in float."""


def cast_fallbacks(context: AlgorithmContext, acceptance: Evaluator, recipe: Recipe, candidate: Candidate) -> Candidate:
    """Return the candidate with as few layers cast as the acceptance samples need; the same one if none is.

    After a cast, the algorithms in `FITTED` that were kept are tried again.
    """
    instead = took_fallback(recipe, candidate.layers.values())
    names = {layer.layer.name for layer in instead if not layer.layer.computed}
    if not names or len(names) == len(candidate.layers) or not candidate.noise.signal > 0:
        return candidate
    in_float = acceptance.noise(left_in_float(context, candidate.layers, names).values())
    enough = max(in_float.noise * 10 ** (MOST_LOSS_DB / 10), in_float.signal * 10 ** (-ENOUGH_DB / 10))
    if not candidate.noise.noise > enough:
        return candidate
    order = _noisiest_first(context, {name: candidate.layers[name] for name in sorted(names)})

    def noise_of(layers: Layers) -> Noise:
        return acceptance.noise(layers.values())

    layers, noise = _fewest(context, candidate.layers, order, noise_of, enough)
    kept = {(step.algorithm, str(step.settings)) for step in candidate.steps if step.kept}
    again = [
        settings
        for settings in recipe.algorithms
        if settings.kind in FITTED and (settings.kind, str(settings.model_dump(mode="json", exclude={"kind"}))) in kept
    ]
    fitted = try_algorithms(context, acceptance, replace(candidate, layers=layers, noise=noise, tried=()), again)
    return replace(fitted, steps=candidate.steps)  # a recipe of these steps casts and fits again by itself


def _noisiest_first(context: AlgorithmContext, layers: Mapping[str, QuantizedLayer]) -> list[list[str]]:
    """Return the names of layers that share a weight together, in falling order of noise for each byte that it takes.

    Where no output can be differentiated, those with the fewest bytes come first.
    """
    sensitivity = probe(context.source, layers, context.calibration)
    noises = {} if sensitivity is None else sensitivity.noise
    sharing: dict[str, list[str]] = {}
    for name, layer in layers.items():
        sharing.setdefault(str(layer.layer.weight_name), []).append(name)

    def worth(names: Sequence[str]) -> tuple[float, int]:
        size = max(layers[names[0]].weight.numel(), 1)
        return -sum(noises.get(name, 0.0) for name in names) / size, size

    return sorted(sharing.values(), key=worth)


def _fewest(
    context: AlgorithmContext,
    layers: Layers,
    order: Sequence[Sequence[str]],
    noise_of: Callable[[Layers], Noise],
    enough: float,
) -> tuple[Layers, Noise]:
    """Return the layers with the shortest beginning of `order` cast that is enough, by bisection, and their noise."""
    few, many = 0, len(order)
    best = _cast(context, layers, order)
    noise = noise_of(best)
    while many - few > 1:
        middle = (few + many) // 2
        tried = _cast(context, layers, order[:middle])
        if (found := noise_of(tried)).noise <= enough:
            many, best, noise = middle, tried, found
        else:
            few = middle
    return best, noise


def _cast(context: AlgorithmContext, layers: Layers, groups: Iterable[Sequence[str]]) -> Layers:
    """Return the layers with these groups in float16; in float where float16 holds them badly, or no format does."""
    casts, floats = dict[str, QuantizedLayer](), list[str]()
    for name in (name for names in groups for name in names):
        layer = layers[name]
        plain = replace(layer, settings=FALLBACK_CAST, qparams=None, bias=None, rounding="nearest")
        plain = plain if plain.scaled_by is not None else replace(plain, pre_quant_scale=None)
        cast = with_quantized_values(plain, plain.target_weight.to(torch.float16))
        fits = not context.source.fixed and layer.layer.weight.dtype in (torch.float32, torch.float64)
        if fits and (cast.weight_sqnr_db is None or cast.weight_sqnr_db >= FINE_CAST_DB):
            casts[name] = cast
        else:
            floats.append(name)
    return left_in_float(context, {**layers, **casts}, floats)
