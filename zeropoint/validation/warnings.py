"""Warnings about a result: why its numbers can't be trusted, or that they are bad, and what to do.

docs/reference/report.md lists every code.
"""

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from zeropoint.layers.quantized_layer import QuantizedLayer
from zeropoint.layers.result import Quantized
from zeropoint.metrics.bound import margins_db
from zeropoint.metrics.rows import Rows, pooled_rows
from zeropoint.metrics.sqnr import Share, finite
from zeropoint.model.source import ProgramSource
from zeropoint.schema.recipe import CASTS, Recipe
from zeropoint.schema.report import MetricReport, ReportWarning
from zeropoint.schema.training_mode import describe
from zeropoint.validation.evaluation import Evaluation
from zeropoint.validation.in_float import InFloat, float_warnings
from zeropoint.validation.outputs import Output

MOST_NAMES = 20
BLOCKS = 8
"""Samples that resemble their neighbours are resampled in this many blocks, or fewer."""
CLOSE_DB = 1.0
"""If blocks differ by less, what is reported of neighbours is only a note."""
UNEVEN = 100.0
"""How many times larger one channel's range is than another's for a layer to count as uneven."""
LAYER_FLOOR_DB = 20.0
"""A layer whose own output is better is not blamed for uneven channels."""
LEAST_TOP_AGREEMENT = 0.5
"""A smaller share of positions with the same largest score is a warning, if the output's SQNR is below `TOP_DB`."""
TOP_DB = 20.0


def result_warnings(quantized: Quantized, evaluation: Evaluation | None, left: InFloat) -> list[ReportWarning]:
    """Return every warning and note, in the order of the data: model, samples, ranges, result."""
    found = [*quantized.source.notes, *_training_mode(quantized), *quantized.warnings]
    if evaluation is not None and evaluation.ran:
        bad = [*_low_sqnr(quantized, evaluation), *_low_agreement(quantized, evaluation)]
        found += [*_not_deterministic(evaluation), *bad, *_uneven_channels(quantized, evaluation, bad=bool(bad))]
        found += _neighbours(quantized, evaluation)
    return [*found, *float_warnings(left)]


def _training_mode(quantized: Quantized) -> Iterator[ReportWarning]:
    source = quantized.source
    if isinstance(source, ProgramSource) and source.training:
        detail, remedy = describe(source.training)
        layers = [path or kind for path, kind in source.training.items()]
        yield ReportWarning(code="training_mode", detail=detail, remedy=remedy, layers=layers[:MOST_NAMES])


def _not_deterministic(evaluation: Evaluation) -> Iterator[ReportWarning]:
    if evaluation.unstable:
        yield ReportWarning(
            code="not_deterministic",
            detail="The float model gives other outputs when it runs the same batch again: "
            f"{_names(evaluation.unstable)}. The numbers measure that too.",
            remedy="Look for dropout (export after model.eval()), random numbers (make them an input) and tensors that "
            "are never filled (torch.empty; use torch.zeros).",
            outputs=evaluation.unstable[:MOST_NAMES],
        )


def _low_sqnr(quantized: Quantized, evaluation: Evaluation) -> Iterator[ReportWarning]:
    floor = quantized.recipe.validation.warn_below_db
    if floor is None:
        return
    low = [output for output in evaluation.outputs.floating if not output.exact and not _reaches(output, floor)]
    if low:
        listed = [f"{output.name!r} {_db(output)}" for output in low[:5]]
        yield ReportWarning(
            code="low_sqnr",
            detail=f"The SQNR of {len(low)} of {len(evaluation.outputs.floating)} floating outputs is below "
            f"{floor:g} dB: {', '.join(listed)}. Noise is a large part of the result.",
            remedy=_advice(quantized, evaluation),
            layers=[layer for layer, _ in _noisiest(evaluation)],
            outputs=[output.name for output in low[:MOST_NAMES]],
        )


def _low_agreement(quantized: Quantized, evaluation: Evaluation) -> Iterator[ReportWarning]:
    floor = quantized.recipe.validation.warn_below_agreement
    if floor is None:
        return
    low = [output for output in evaluation.outputs.counted if _differs_more(output.equal, floor)]
    listed = [f"{output.name!r} {_percent(output.equal.value)}" for output in low[:5]]
    detail = f"Integer or bool outputs agree with the float model in less than {_percent(floor)}: {', '.join(listed)}."
    names = [output.name for output in low]
    if not low:
        agreement = _top_agreement(evaluation)
        if agreement is None:
            return
        name = evaluation.outputs.floating[0].name
        detail = f"The largest score of output {name!r} is in the float model's place at only {_percent(agreement)}."
        names = [name]
    layers = [layer for layer, _ in _noisiest(evaluation)]
    yield ReportWarning(
        code="low_agreement",
        detail=detail,
        remedy=_advice(quantized, evaluation),
        layers=layers,
        outputs=names[:MOST_NAMES],
    )


def _differs_more(equal: Share, floor: float) -> bool:
    """Return whether more elements differ than two standard deviations above what `floor` allows: few say little."""
    allowed = equal.total * (1 - floor)
    return equal.total - equal.count > allowed + 2 * math.sqrt(allowed * floor)


def _top_agreement(evaluation: Evaluation) -> float | None:
    """Return the agreement of the first floating output's largest scores, if it is low; None if it is not."""
    metrics: list[MetricReport] = [report for report in evaluation.metrics.reports() if report.name == "agreement"]
    if not metrics or metrics[0].value is None or metrics[0].value >= LEAST_TOP_AGREEMENT:
        return None
    return None if _reaches(evaluation.outputs.floating[0], TOP_DB) else metrics[0].value


def _uneven_channels(quantized: Quantized, evaluation: Evaluation, *, bad: bool) -> Iterator[ReportWarning]:
    """Yield the layers that lose much by themselves, and whose channels share a range but not a size."""
    uneven = []
    for layer in quantized.layers:
        noise = evaluation.layers[layer.layer.name]
        db = finite(noise.db)
        if db is not None and db < LAYER_FLOOR_DB and (spread := _spread(layer, evaluation)) >= UNEVEN:
            uneven.append((db, layer.layer.name, spread))
    if uneven:
        uneven.sort()
        db, name, spread = uneven[0]
        yield ReportWarning(
            code="uneven_channels",
            level="warning" if bad else "note",
            detail=f"{len(uneven)} layers share one range among channels of very different size: in {name!r} the "
            f"largest is {spread:.3g} times the smallest, and the layer's own SQNR is {db:.1f} dB. Small channels are "
            "rounded to nothing.",
            remedy='Scale the columns of the samples to similar ranges, use the preset "int8" (smoothing moves the '
            'spread into the weights) or "int8-weight-only", or name the layers in "exclude".',
            layers=[layer for _, layer, _ in uneven[:MOST_NAMES]],
        )


def _spread(layer: QuantizedLayer, evaluation: Evaluation) -> float:
    """Return how many times larger the largest channel is than the smallest, in the input or in the weight."""
    inputs = _ratio(evaluation.channels.get(layer.layer.name))
    weight = layer.layer.weight
    if weight.device.type == "meta" or weight.dim() < 2 or layer.settings.dtype in CASTS:
        return inputs
    axis = 1 - layer.layer.output_axis
    others = [dimension for dimension in range(weight.dim()) if dimension != axis]
    return max(inputs, _ratio(weight.abs().amax(others).float().cpu()))


def _ratio(sizes: Tensor | None) -> float:
    """Return the largest over the smallest size above zero."""
    if sizes is None:
        return 1.0
    sizes = sizes[(sizes > 0) & torch.isfinite(sizes)]
    return float(sizes.max() / sizes.min()) if sizes.numel() else 1.0


def _neighbours(quantized: Quantized, evaluation: Evaluation) -> Iterator[ReportWarning]:
    """Yield what blocks of samples say, if those that evaluate are neighbours of those that calibrate."""
    rows = pooled_rows(evaluation.rows) if evaluation.rows else Rows()
    value = finite(evaluation.outputs.noise.db)
    if not quantized.neighbours_alike or value is None or not len(rows):
        return
    [margin] = margins_db([rows], len(rows), least_length=max(len(rows) // BLOCKS, 1))
    yield ReportWarning(
        code="neighbouring_samples",
        level="warning" if margin >= CLOSE_DB else "note",
        detail="Samples resemble their neighbours, and those that evaluate follow directly on those that calibrate: "
        f"{value:.1f} dB may be too good. Resampled in blocks, other samples of this kind have {value - margin:.1f} dB "
        "or more; samples from elsewhere may have less.",
        remedy="Evaluate on samples from other recordings, files or days (an evaluation dataset; evaluation_data in "
        "Python), or put the samples into random order if the model will get more of these.",
    )


def _noisiest(evaluation: Evaluation) -> list[tuple[str, float]]:
    """Return the five layers with the lowest SQNR of their own."""
    values = {name: db for name, noise in evaluation.layers.items() if (db := finite(noise.db)) is not None}
    return sorted(values.items(), key=lambda item: item[1])[:5]


def _advice(quantized: Quantized, evaluation: Evaluation) -> str:
    """Return what to do about bad numbers; no recipe helps where the float model differs from itself."""
    if evaluation.unstable:
        return "Let the float model give the same outputs for the same inputs first: see not_deterministic."
    return better_recipe(quantized.recipe, [layer for layer, _ in _noisiest(evaluation)])


def better_recipe(recipe: Recipe, layers: Sequence[str]) -> str:
    """Return what usually gives better numbers than this recipe, as a sentence."""
    exclude = f'; or name the noisiest layers in "exclude" ({_names(layers)})' if layers else ""
    kinds = {algorithm.kind for algorithm in recipe.algorithms}
    weights = recipe.weights.dtype
    if recipe.activations is None:
        better = "int8-weight-only" if weights == "int4" else "float16"
        return f'Use the preset "{better}"{exclude}.' if weights not in CASTS else f"Use another dtype{exclude}."
    if recipe.target is None and not kinds:
        return f'Use the preset "int8", which is better at the same size, or "int8-accurate"{exclude}.'
    if recipe.target is None and "mixed_precision" not in kinds:
        return f'Use the preset "int8-accurate", or a target ("target": {{"min_sqnr_db": 30}}){exclude}.'
    return f'Use the preset "int8-weight-only"{exclude}.'


def _reaches(output: Output, floor: float) -> bool:
    db = output.noise.db
    return db is None or (math.isfinite(db) and db >= floor)


def _db(output: Output) -> str:
    db = finite(output.noise.db)
    return "no finite number" if db is None else f"{db:.2f} dB"


def _percent(share: float | None) -> str:
    return f"{100 * (share or 0.0):.3g} %"


def _names(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:5])
    return shown + (f" and {len(names) - 5} more" if len(names) > 5 else "")
