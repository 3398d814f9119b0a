"""What each quantized layer costs the whole model: its noise by the probe, and what leaving it in float would gain.

    gain_l = 10·log10(noise of all / noise of all but l)

The probe predicts it for every layer: noise of all but l = noise of all · (1 − noise_l / Σ noise). Noise adds up only
nearly, and the probe sees few samples. So the gain is measured, once the result was evaluated, for the layers that the
report shows first, and for all of few layers. Few samples that evaluated are all measured: the gain is then what the
same layers without l reach on them. Of many, some are drawn. A few samples make most of the noise, and a plain sample
misses them: CREPE's worst layer gains 3.5 dB, and 13 evenly spread samples said between 0.9 and 6.8. So samples are
drawn with probability p_i, half in proportion to their noise n_i and half evenly:

    noise of all but l / noise of all = Σ (n_i without l / p_i) / Σ (n_i / p_i),  over drawn samples

(importance sampling with a defensive mixture: Hesterberg, Technometrics 1995).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from zeropoint.data.batches import Batches, ModelInputs, Samples
from zeropoint.data.calls import IterableBatches
from zeropoint.layers.quantized_layer import QuantizedLayer
from zeropoint.metrics.rows import Rows
from zeropoint.metrics.sqnr import Noise
from zeropoint.model.source import Source
from zeropoint.simulation.measure import Evaluator
from zeropoint.simulation.sensitivity import MAX_SAMPLES, Sensitivity, predicted_db, probe

MEASURED = 3
"""The layers that the report shows first are measured, at least so many."""
MOST_LAYERS = 6
"""Most layers to measure: what was measured may put others first."""
FEW_RUNS = 256
"""All layers are measured if that takes at most so many runs of a sample."""
FEW_SAMPLES, FEW_SAMPLES_LARGE = 256, 64
"""So many samples are all measured, the second for models of more than `SMALL_BYTES`."""
SMALL_BYTES = 2**25
PROBE_SHARE, MEASURE_SHARE = 21, 9
"""One of so many calibration samples is probed, at about 7 forward passes each; for large models with many samples that
evaluate as many are measured, at about 6. Together that is less than a calibration pass, which takes statistics too."""
MOST_BYTES = 2**30
"""Of larger models, gradients are taken only if the recipe asks for them."""


@dataclass(frozen=True)
class LayerCosts:
    """By layer name, in dB, without layers that make no noise.

    `alone`: the whole model's SQNR if only that layer were quantized. `gain`: by how much it would rise if the layer
    were in float, as the probe predicts it.
    """

    alone: Mapping[str, float] = field(default_factory=dict)
    gain: Mapping[str, float] = field(default_factory=dict)


def layer_costs(
    source: Source, layers: Sequence[QuantizedLayer], samples: Batches, *, asked: bool | None
) -> LayerCosts:
    """Return what the layers cost by the probe; nothing where no gradient can be taken.

    `asked` None: only if it takes less time than a pass over all `samples`, and hardly more memory.
    """
    count = MAX_SAMPLES if asked else min(MAX_SAMPLES, samples.count // PROBE_SHARE)
    if not asked and (asked is False or _is_large(source, layers) or count < max(_smallest(samples), 1)):
        return LayerCosts()
    sensitivity = _probed(source, layers, spread(samples, count))
    if sensitivity is None or not 0 < sensitivity.signal < math.inf:
        return LayerCosts()
    noise = {name: value for name, value in sensitivity.noise.items() if math.isfinite(value) and value > 0}
    total = sum(noise.values())
    return LayerCosts(
        {name: predicted_db(sensitivity.signal, value) for name, value in noise.items()},
        {name: -10 * math.log10(1 - value / total) for name, value in noise.items() if value < total},
    )


def measured_gains(
    source: Source,
    layers: Sequence[QuantizedLayer],
    gains: Mapping[str, float],
    evaluation: tuple[Batches, Rows],
    calibrating: int,
    *,
    asked: bool,
) -> dict[str, float]:
    """Return the gains, those of the layers that come first measured on the samples that evaluated the result.

    `evaluation`: these samples, and the noise of each. `calibrating`: the number of calibration samples. `asked`: the
    recipe asks for what layers cost, so that a model counts as small.
    """
    samples, rows = evaluation
    most, count = FEW_SAMPLES, FEW_SAMPLES
    if not asked and source.original_bytes > SMALL_BYTES:
        most, count = FEW_SAMPLES_LARGE, min(calibrating // MEASURE_SHARE, FEW_SAMPLES_LARGE)
    few = samples.count <= most
    places = [] if few else _drawn(_chances(rows), count)
    one_by_one = isinstance(samples, Samples) and samples.smallest_batch <= 1 and len(rows) == samples.count
    if not few and not (places and one_by_one):
        return dict(gains)
    try:
        if few or not isinstance(samples, Samples):
            return _measured(gains, _on_all(source, layers, samples), samples.count)
        measure = _on_drawn(source, layers, _at(samples, places), _chances(rows)[torch.tensor(places)])
        return _measured(gains, measure, len(places))
    except Exception:  # a model that fails on other batches than those it was given
        _forget(source)
        return dict(gains)


GainOf = Callable[[str], float]
"""Returns what leaving the named layer in float gains, in dB; infinite or no number where that can't be said."""


def _measured(gains: Mapping[str, float], measure: GainOf, samples: int) -> dict[str, float]:
    """Return the gains, measured for all layers if there are few, else until those that come first are measured."""
    found, known = dict(gains), set[str]()
    few = len(gains) * samples <= FEW_RUNS
    while few or len(known) < MOST_LAYERS:
        order = sorted(found, key=lambda name: -found[name])
        name = next((name for name in order[: None if few else MEASURED] if name not in known), None)
        if name is None:
            break
        known.add(name)
        gain = measure(name)
        if math.isfinite(gain):
            found[name] = gain
    return found


def _on_all(source: Source, layers: Sequence[QuantizedLayer], samples: Batches) -> GainOf:
    """Return a function that measures a gain on all samples."""
    evaluator = Evaluator(source, samples)
    everything = _db(evaluator.noise(layers))
    return lambda name: _db(evaluator.noise(_but(layers, name))) - everything


def _on_drawn(source: Source, layers: Sequence[QuantizedLayer], samples: Batches, chances: Tensor) -> GainOf:
    """Return a function that measures a gain on samples that were drawn with these chances, float64 [samples]."""
    evaluator = Evaluator(source, samples)
    everything = evaluator.by_row(layers).tensors[1]

    def gain(name: str) -> float:
        rest = evaluator.by_row(_but(layers, name)).tensors[1]
        if not len(rest) == len(everything) == len(chances):
            return math.nan
        left = float((rest / chances).sum() / (everything / chances).sum())
        return -10 * math.log10(left) if 0 < left < math.inf else math.nan

    return gain


def _db(noise: Noise) -> float:
    return math.nan if noise.db is None else noise.db


def _but(layers: Sequence[QuantizedLayer], name: str) -> list[QuantizedLayer]:
    return [layer for layer in layers if layer.layer.name != name]


def _probed(source: Source, layers: Sequence[QuantizedLayer], samples: Batches) -> Sensitivity | None:
    try:
        return probe(source, {layer.layer.name: layer for layer in layers}, samples)
    except Exception:  # no derivative, too little memory, or a model that fails on smaller batches than it was given
        _forget(source)
        return None


def _forget(source: Source) -> None:
    """Leave the source as it was before a pass that failed."""
    source.current.tensors = None
    source.reset()


def _is_large(source: Source, layers: Sequence[QuantizedLayer]) -> bool:
    return source.original_bytes > MOST_BYTES or any(layer.layer.stored is not None for layer in layers)


def _smallest(samples: Batches) -> int:
    """Return the fewest samples that a pass takes; all of them where they can't be cut."""
    return samples.smallest_batch if isinstance(samples, Samples) else samples.count


def _chances(rows: Rows) -> Tensor:
    """Return with which probability each row is drawn, float64 [rows]; nothing if there is no noise."""
    noise = rows.tensors[1]
    total = float(noise.sum()) if len(noise) else 0.0
    return (noise / total + 1 / len(noise)) / 2 if 0 < total < math.inf else noise[:0]


def _drawn(chances: Tensor, count: int) -> list[int]:
    """Return the positions of `count` rows, drawn at even steps of the summed chances; a noisy row may come twice."""
    if not len(chances) or count < 1:
        return []
    steps = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    return [min(int(place), len(chances) - 1) for place in torch.searchsorted(chances.cumsum(0), steps)]


def spread(samples: Batches, count: int) -> Batches:
    """Return `count` samples evenly spread over all, since neighbours may be alike; all of what can't be cut."""
    if not isinstance(samples, Samples):
        return samples
    parts = max(min(count, samples.count) // max(samples.smallest_batch, 1), 1)
    return _at(samples, [part * (samples.count // parts) for part in range(parts)])


def _at(samples: Samples, places: Sequence[int]) -> Batches:
    """Return the samples at these positions; where a pass takes more than one, each with those behind it."""
    each = max(samples.smallest_batch, 1)
    firsts = [samples.start + place for place in places]
    calls = [call for first in firsts for call in samples.between(first, first + each)]
    return IterableBatches(_joined(calls, samples.batch_size), _as_it_is)


def _joined(calls: Sequence[ModelInputs], most: int) -> list[ModelInputs]:
    """Return the calls, those of one form joined into batches of at most `most` samples."""
    joined: list[list[ModelInputs]] = []
    for call in calls:
        last = joined[-1] if joined else []
        if last and _form(last[0]) == _form(call) is not None and sum(one.samples for one in last) < most:
            last.append(call)
        else:
            joined.append([call])
    return [ModelInputs([torch.cat(part) for part in zip(*some, strict=True)], some[0].keywords) for some in joined]


def _form(call: ModelInputs) -> tuple[tuple[int, ...], ...] | None:
    """Return the shapes of a call's tensors without their samples; None where the first dimension counts none."""
    if any(tensor.dim() == 0 or len(tensor) != call.samples for tensor in call):
        return None
    return tuple(tuple(tensor.shape[1:]) for tensor in call)


def _as_it_is(call: object) -> ModelInputs:
    assert isinstance(call, ModelInputs)
    return call
