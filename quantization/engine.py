"""The engine: plan, calibrate, quantize. It knows sources by their leaves and formats not at all."""

from collections.abc import Callable
from dataclasses import dataclass

from quantization.affine import QINT8, dequantize, quantize, symmetric
from quantization.calibration import calibrate
from quantization.errors import InvalidSamples
from quantization.folder import Phase
from quantization.layers import Activation, Quantized, QuantizedLayer
from quantization.observers import observer_for
from quantization.recipe import DEFAULT_CALIBRATION_SAMPLES, Recipe
from quantization.report import CalibrationReport, SkippedLayer
from quantization.samples import Samples
from quantization.selection import Choice, select
from quantization.sources.source import Source
from quantization.sqnr import Noise
from quantization.versions import versions

Report = Callable[[Phase, int, int], None]
"""Called with (phase, done, total)."""


@dataclass(frozen=True)
class Plan:
    """What will be done, decided from the recipe, the layers and the sample count alone."""

    choices: list[Choice]
    skipped: list[SkippedLayer]
    calibration: Samples | None
    held_out: Samples | None


def plan(source: Source, recipe: Recipe, samples: Samples | None) -> Plan:
    """Choose layers and split samples. Raises InvalidRecipe, or InvalidSamples when activations need samples."""
    choices, skipped = select(source.layers, recipe)
    if samples is None and any(choice.activations is not None for choice in choices):
        raise InvalidSamples(
            "dataset_required",
            "Static activation ranges come from calibration samples, and the job has no dataset.",
            'Give the job a dataset, or a recipe with "activations": null.',
        )
    calibration, held_out = (None, None) if samples is None else split(samples, recipe.calibration.samples)
    return Plan(choices, skipped, calibration, held_out)


def split(samples: Samples, wanted: int | None) -> tuple[Samples, Samples | None]:
    """Rows to calibrate with, and the rows kept out for evaluation (None when nothing is left).

    Without a wish: at most DEFAULT_CALIBRATION_SAMPLES, and a quarter of the rows stays out if there are eight or more.
    """
    rows = samples.stop
    if wanted is None:
        wanted = min(DEFAULT_CALIBRATION_SAMPLES, rows - rows // 4 if rows >= 8 else rows)
    cut = min(max(wanted, samples.smallest_batch), rows)
    rest = samples.between(cut, rows)
    return samples.between(0, cut), rest if len(rest) else None


def quantize_source(source: Source, recipe: Recipe, planned: Plan, report: Report) -> Quantized:
    """Run the plan. Raises InvalidSamples when calibration meets values that are not finite."""
    # 1. activations: one pass over the calibration samples
    activations: dict[str, Activation] = {}
    static = [choice for choice in planned.choices if choice.activations is not None]
    if planned.calibration is not None and static:
        activations = calibrate(source, static, planned.calibration, lambda *at: report("calibrating", *at))
    # 2. weights: layer by layer
    layers = []
    for done, choice in enumerate(planned.choices, start=1):
        layers.append(quantize_layer(choice, activations.get(choice.layer.name)))
        report("quantizing", done, len(planned.choices))
    used = planned.calibration if static else None
    return Quantized(source, recipe, layers, planned.skipped, _calibration_report(used), versions())


def quantize_layer(choice: Choice, activation: Activation | None) -> QuantizedLayer:
    """Weight [out, ...] -> int8, one symmetric grid per output channel (axis 0) or one for all."""
    axis = choice.weights.axis if choice.weights.granularity == "per_channel" else None
    weight = choice.layer.weight.cpu()
    observer = observer_for(choice.weights.observer, axis)
    observer.observe(weight)
    affine = symmetric(*observer.range(), QINT8, axis)
    integers = quantize(weight, affine)
    noise = Noise()
    noise.add(weight, dequantize(integers, affine))
    return QuantizedLayer(choice.layer, choice.weights, integers, affine, activation, noise.db)


def _calibration_report(samples: Samples | None) -> CalibrationReport:
    if samples is None:
        return CalibrationReport(samples=0, batches=0, batch_size=0, passes=0, reused=False)
    return CalibrationReport(
        samples=samples.count, batches=len(samples), batch_size=samples.batch_size, passes=1, reused=False
    )
