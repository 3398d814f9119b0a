"""Choose which convolutions pass integers on in formats that write their results so, after all that was decided.

Rounding a result once more costs accuracy; a result in float costs speed, since the runtime then computes the whole
convolution in float. So as many results as possible are integers, within `MOST_LOST_DB` of the whole model's SQNR.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from zeropoint.algorithms.context import Layers
from zeropoint.data.batches import Batches
from zeropoint.data.dataset import first_of
from zeropoint.graph.integer_outputs import integer_outputs
from zeropoint.layers.quantized_layer import Activation, QuantizedLayer
from zeropoint.metrics.sqnr import Noise
from zeropoint.model.source import ProgramSource
from zeropoint.schema.decisions import IntegerOutputsReport
from zeropoint.simulation.fake_quant import rounded_outputs
from zeropoint.simulation.measure import Evaluator

MOST_LOST_DB = 0.4
"""By how much results that are integers may lower the whole model's SQNR."""
SAMPLES = 8
"""Samples on which the results are rounded, one after another."""


def with_integer_outputs(
    source: ProgramSource, layers: Sequence[QuantizedLayer], outputs: Mapping[str, Activation], samples: Batches
) -> tuple[list[QuantizedLayer], IntegerOutputsReport | None]:
    """Return the layers, with qparams of the fused outputs that become integers, and what the report says of them.

    `outputs`: qparams of fused outputs by layer. Where a quantized layer reads the output, it has the grid of that
    layer's input instead. The report is None if no value is rounded more often than in the quantized program.
    """
    by_name = {layer.layer.name: layer for layer in layers}
    found = integer_outputs(source.calls, [name for name, layer in by_name.items() if _reads_integers(layer)])
    grids = {name: _grid(by_name, name, place.reader, outputs) for name, place in found.items()}
    written = {name: replace(layer, output=grids.get(name)) for name, layer in by_name.items()}
    rounded = [name for name, place in found.items() if not place.read_alone and grids[name] is not None]
    if not rounded:
        return list(written.values()), None
    work = {name: found[name].positions * by_name[name].weight.numel() for name in rounded}
    stay, cost = _affordable(source, written, work, samples)
    in_float = [name for name in rounded if name not in stay]
    changed = {**written, **{name: replace(written[name], output=None) for name in in_float}}
    return list(changed.values()), IntegerOutputsReport(outputs=len(stay), in_float=in_float, cost_db=cost)


def _reads_integers(layer: QuantizedLayer) -> bool:
    """Return whether the layer's input is quantized as it is: nothing multiplies it, and no channel stays in float."""
    as_it_is = layer.pre_quant_scale is None or layer.scaled_by is not None
    return layer.activation is not None and as_it_is and layer.outliers is None


def _grid(layers: Layers, name: str, reader: str | None, outputs: Mapping[str, Activation]) -> Activation | None:
    """Return the qparams of a layer's output; None if it holds the scale of a layer that doesn't read it directly.

    Its range is not that of the values then: an average, for example, has a smaller one.
    """
    if reader is not None:
        return layers[reader].activation
    holds_scale = any(layer.scaled_by == name for layer in layers.values())
    return None if holds_scale else outputs.get(name)


def _affordable(
    source: ProgramSource, layers: Layers, work: Mapping[str, int], samples: Batches
) -> tuple[list[str], float]:
    """Return results that can stay integers, and by how many dB they lower the SQNR; the most work for its noise first.

    `work`: multiply-accumulates of each layer whose result would be rounded.

    Rounding errors are independent of all other noise, so what each adds by itself to the float model can be summed.
    That takes fewer samples than the difference of two measurements of all noise.
    """
    noise = Evaluator(source, samples).noise(layers.values())
    room = noise.noise * (10 ** (MOST_LOST_DB / 10) - 1)
    alone = Evaluator(source, first_of(samples, SAMPLES), rounded_outputs)
    added = {name: _share(alone.noise([layers[name]])) * noise.signal for name in work}
    stay: list[str] = []
    for name in sorted(work, key=lambda name: added[name] / max(work[name], 1)):
        if sum(added[other] for other in [*stay, name]) <= room:
            stay.append(name)
    ratio = sum(added[name] for name in stay) / noise.noise if noise.noise else 0.0
    return stay, 10 * math.log10(1 + ratio)


def _share(noise: Noise) -> float:
    """Return noise / signal; infinity where outputs are not finite, or there is no signal."""
    share = noise.noise / noise.signal if noise.signal else math.inf
    return share if math.isfinite(share) else math.inf
