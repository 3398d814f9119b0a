"""The engine: plan, calibrate, quantize. It knows sources by their leaves and formats not at all."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from quantization.affine import Affine
from quantization.calibration import Step, calibrate, output_grids, static_grids, thin_spots
from quantization.checkpoints import NO_CHECKPOINTS, Checkpoints
from quantization.errors import InvalidRecipe, InvalidSamples
from quantization.finished import FinishedLayers
from quantization.folder import Phase
from quantization.layers import Activation, Quantized, QuantizedLayer
from quantization.profile import Profile
from quantization.recipe import DEFAULT_CALIBRATION_SAMPLES, Recipe
from quantization.report import NOT_CALIBRATED, CalibrationReport, SkippedLayer
from quantization.samples import Batches, Samples
from quantization.selection import Choice, select
from quantization.sources.source import Source
from quantization.spilling import on_disk
from quantization.sqnr import Noise
from quantization.versions import versions
from quantization.weights import by_rows, decode, encode, joined

Report = Callable[[Phase, int, int], None]
"""Called with (phase, done, total)."""


@dataclass(frozen=True)
class Plan:
    """What will be done, decided from the recipe, the layers and the sample count alone."""

    choices: list[Choice]
    skipped: list[SkippedLayer]
    calibration: Batches | None
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


def quantize_source(
    source: Source,
    recipe: Recipe,
    planned: Plan,
    report: Report,
    profile: Profile | None = None,
    *,
    checkpoints: Checkpoints = NO_CHECKPOINTS,
    scratch: Path | None = None,
) -> Quantized:
    """Run the plan; with a `profile` of these samples, without a forward pass. It goes on from `checkpoints`.

    `scratch`: a folder for the numbers of layers whose float weights lie in files too; None keeps them in memory.
    Raises InvalidSamples when calibration meets values that are not finite, InvalidProfile when it lacks a layer.
    """
    # 1. activations: one pass over the calibration samples
    static = [choice for choice in planned.choices if choice.activations is not None]
    if not static or planned.calibration is None:
        profile = None
    elif profile is None:
        samples, step = planned.calibration, partial(report, "calibrating")
        profile = calibrate(source, static, samples, step, outputs=recipe.needs_outputs, checkpoints=checkpoints)
    if profile is not None and not profile.reused:
        planned = without_idle(planned, profile)
        static = [choice for choice in planned.choices if choice.activations is not None]
    activations = {} if profile is None else static_grids(static, profile)
    outputs = output_grids(static, profile) if profile is not None and recipe.needs_outputs else {}
    # 2. weights: layer by layer
    layers = quantize_layers(planned.choices, activations, partial(report, "quantizing"), checkpoints, scratch)
    layers = [replace(layer, output=outputs.get(layer.layer.name)) for layer in layers]
    calibration = _calibration_report(profile, list(activations))
    return Quantized(source, recipe, layers, planned.skipped, calibration, versions(source.libraries))


def without_idle(planned: Plan, profile: Profile) -> Plan:
    """The plan without layers that no calibration sample reached: they have no range, and stay in float.

    Raises InvalidRecipe when nothing is left.
    """
    idle = {c.layer.name for c in planned.choices if c.activations is not None} - set(profile.layers)
    choices = [choice for choice in planned.choices if choice.layer.name not in idle]
    if not choices:
        raise InvalidRecipe(
            "nothing_to_quantize",
            "The recipe leaves every layer in float: never_ran.",
            "Give calibration samples that reach the selected layers.",
        )
    left = [c.layer for c in planned.choices if c.layer.name in idle]
    skipped = [SkippedLayer(name=layer.name, type=layer.type, reason="never_ran") for layer in left]
    return replace(planned, choices=choices, skipped=[*planned.skipped, *skipped])


def quantize_layers(
    choices: Sequence[Choice],
    activations: Mapping[str, Activation],
    step: Step,
    checkpoints: Checkpoints,
    scratch: Path | None = None,
) -> list[QuantizedLayer]:
    """Each choice quantized, in their order; those that checkpoints hold are taken as they are."""
    finished = FinishedLayers(checkpoints, choices)
    done, layers = len(finished.found), []
    if done:
        step(done, len(choices))
    for number, choice in enumerate(choices):
        activation = activations.get(choice.layer.name)
        layer = finished.take(choice.layer.name, activation)
        if layer is None:
            layer = quantize_layer(choice, activation)
            if choice.layer.stored is not None and scratch is not None:
                layer = on_disk(layer, scratch / f"{number}.safetensors")
            layer.release()
            finished.add(layer)
            done += 1
            step(done, len(choices))
        layers.append(layer)
    finished.close()
    return layers


def quantize_layer(choice: Choice, activation: Activation | None) -> QuantizedLayer:
    """Weight [out, ...] -> numbers of the recipe's dtype, and what that cost."""
    noise, stored = Noise(), choice.layer.stored
    axis = choice.layer.output_axis if choice.weights.axis is None else choice.weights.axis
    parts: list[Tensor] = []
    grids: list[Affine] = []
    whole = stored is None or not by_rows(choice.weights, axis)
    for block in (choice.layer.weight.cpu(),) if whole or stored is None else stored.blocks():
        numbers, affine = encode(block, choice.weights, axis, choice.layer.scale_dtype)
        noise.add(block, decode(numbers, affine))
        parts.append(numbers)
        grids.extend([] if affine is None else [affine])
    if len(parts) > 1:
        numbers, affine = torch.cat(parts), joined(grids) if grids else None
    return QuantizedLayer(choice.layer, choice.weights, numbers, affine, activation, noise.db)


def _calibration_report(profile: Profile | None, names: list[str]) -> CalibrationReport:
    if profile is None:
        return NOT_CALIBRATED
    return CalibrationReport(
        samples=profile.samples,
        batches=profile.batches,
        batch_size=profile.batch_size,
        passes=0 if profile.reused else 1,
        reused=profile.reused,
        warnings=thin_spots(profile, names),
    )
