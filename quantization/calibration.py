"""Calibration: run the float model over samples while collectors watch layer inputs, then let observers choose ranges.

Where a format writes what a convolution gives as integers too, the same pass watches its outlet (`sources.outlets`).

One pass, one batch in memory; the model's own outputs are thrown away.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from quantization.algorithm_settings import NEEDS_CHANNELS, NEEDS_HISTOGRAMS
from quantization.checkpoints import NO_CHECKPOINTS, Checkpoints
from quantization.errors import InvalidProfile, InvalidSamples
from quantization.layers import Activation, input_target
from quantization.observers import observer_for
from quantization.passes import Pass
from quantization.presets import pieces_of
from quantization.profile import CALIBRATE_AGAIN, Profile
from quantization.recipe import ActivationSettings, Recipe
from quantization.samples import Batches
from quantization.selection import Choice, is_meant
from quantization.sources.source import Layer, Source
from quantization.statistics import Collector
from quantization.watching import watched

Step = Callable[[int, int], None]
"""Called with (done, total) after each batch or layer."""

FEW_SAMPLES = 32
"""Fewer lose over 1 dB on the digits network; both bounds are measured in docs/quantization.md."""
LATE_GROWTH = 0.25
"""Share of a range that may come with the last quarter of the batches; more is worth a warning."""


@dataclass(frozen=True)
class Wanted:
    """What a pass looks at beside ranges: histograms and single channels, by layer name, and outlets."""

    histograms: Collection[str] = ()
    channels: Collection[str] = ()
    outputs: bool = False
    """Whether the outlets of layers are watched as their inputs are, where they have one."""


def everything(layers: Iterable[Layer]) -> Wanted:
    """All that any recipe may ask for."""
    names = {layer.name for layer in layers}
    return Wanted(names, names, outputs=True)


def calibrate(
    source: Source,
    choices: Sequence[Choice],
    recipe: Recipe,
    samples: Batches,
    step: Step,
    *,
    checkpoints: Checkpoints = NO_CHECKPOINTS,
) -> Profile:
    """The statistics that the recipe's observers and algorithms need of these choices."""
    layers, wanted = wanted_by(choices, recipe)
    return collect(source, layers, samples, step, wanted, checkpoints=checkpoints)


def wanted_by(choices: Sequence[Choice], recipe: Recipe) -> tuple[list[Layer], Wanted]:
    """The layers that the recipe's observers and algorithms watch, and what they look at there."""
    pieces = pieces_of(recipe)
    wishes = {c.layer.name: observer_for(c.activations.observer) for c in choices if c.activations is not None}
    histograms = {name for name, wish in wishes.items() if wish.needs_histogram}
    histograms |= {c.layer.name for c in choices if is_meant(c.layer, pieces, NEEDS_HISTOGRAMS)}
    channels = {c.layer.name for c in choices if is_meant(c.layer, pieces, NEEDS_CHANNELS)}
    layers = [choice.layer for choice in choices if choice.layer.name in {*wishes, *channels}]
    return layers, Wanted(histograms, channels, outputs=recipe.needs_outputs)


def collect(
    source: Source,
    layers: Sequence[Layer],
    samples: Batches,
    step: Step,
    wanted: Wanted,
    *,
    checkpoints: Checkpoints = NO_CHECKPOINTS,
) -> Profile:
    """Statistics of the inputs of `layers`, and what else is wanted, in one pass. Padding stays out (`masking`).

    Layers without a module, and those that no sample reaches, are left out. The pass goes on from its checkpoint if
    there is one, to the same statistics bit for bit; a long one keeps its end too, which is all that they come from.
    """
    modules, collectors = _collectors(layers, wanted)
    checkpoints.begin()
    progress = Pass(source, collectors)
    progress.resume(checkpoints)
    if progress.done:
        step(progress.done, len(samples))
    with torch.no_grad(), watched(modules, {name: collectors[name].observe for name in modules}) as look:
        for batch in progress.remaining(samples):
            look.at(batch)
            source.run(batch)
            progress.done += 1
            if checkpoints.due:
                progress.keep(checkpoints)
            step(progress.done, len(samples))
    if checkpoints.long:
        progress.keep(checkpoints)
    source.reset()
    seen = {name: collector.statistics() for name, collector in collectors.items() if collector.count}
    return Profile(seen, samples.count, len(samples), samples.batch_size)


def _collectors(layers: Sequence[Layer], wanted: Wanted) -> tuple[dict[str, nn.Module], dict[str, Collector]]:
    """Modules to watch, and what watches each; outlets are under `outlet_name`."""
    modules = {layer.name: layer.module for layer in layers if layer.module is not None}
    axes = {layer.name: layer.channel_axis for layer in layers if layer.name in wanted.channels}
    collectors = {n: Collector(histogram=n in wanted.histograms, channel_axis=axes.get(n)) for n in modules}
    for layer in layers:
        if wanted.outputs and layer.outlet is not None:
            modules[outlet_name(layer.name)] = layer.outlet
            collectors[outlet_name(layer.name)] = Collector(histogram=layer.name in wanted.histograms)
    return modules, collectors


def outlet_name(layer: str) -> str:
    """What the statistics of a layer's outlet are called among those of layers, whose names have no colon."""
    return f"{layer}:output"


def static_grids(choices: Sequence[Choice], profile: Profile) -> dict[str, Activation]:
    """The static grid of each chosen layer's input, by layer name.

    Raises InvalidSamples when an input turned NaN or infinite, naming the layer; InvalidProfile when statistics lack.
    """
    return {
        choice.layer.name: _activation(choice.layer, choice.activations, profile)
        for choice in choices
        if choice.activations is not None
    }


def output_grids(choices: Sequence[Choice], profile: Profile) -> dict[str, Activation]:
    """The static grid at each chosen convolution's outlet, by layer name: chosen as its input's is. Raises likewise.

    None for float8: no runtime has a convolution that gives it.
    """
    return {
        choice.layer.name: _activation(choice.layer, choice.activations, profile, output=True)
        for choice in choices
        if choice.activations is not None and choice.activations.dtype != "float8_e4m3"
        if choice.layer.outlet is not None
    }


def thin_spots(profile: Profile, names: Sequence[str]) -> list[str]:
    """Where the statistics of these layers may not be enough, in short stable words (docs/quantization.md)."""
    spots = []
    if profile.samples < FEW_SAMPLES:
        spots.append(f"few_samples: {profile.samples}; {FEW_SAMPLES} or more give steadier ranges.")
    growth = {name: profile.layers[name].late_growth or 0.0 for name in names}
    moving = sorted((name for name in names if growth[name] > LATE_GROWTH), key=lambda name: -growth[name])
    if moving:
        worst = ", ".join(repr(name) for name in moving[:5])
        share = f"{LATE_GROWTH:.0%}".replace("%", " %")
        spots.append(f"still_moving: ranges that grew by over {share} in the last quarter: {len(moving)} ({worst}).")
    return spots


def _activation(layer: Layer, settings: ActivationSettings, profile: Profile, *, output: bool = False) -> Activation:
    place = f"{'output' if output else 'input'} of layer {layer.name!r}"
    observer = observer_for(settings.observer)
    target = input_target(layer, settings)
    statistics = profile.layers.get(outlet_name(layer.name) if output else layer.name)
    if statistics is not None and not statistics.finite:
        raise InvalidSamples(
            "non_finite_activations",
            f"The {place} becomes NaN or infinite during calibration.",
            "Check that the float model gives finite outputs on these samples.",
        )
    if statistics is None or (observer.needs_histogram and statistics.histogram is None):
        raise InvalidProfile(
            "profile_incomplete",
            f"The profile lacks statistics of the {place} that the recipe's observer needs.",
            CALIBRATE_AGAIN,
        )
    return Activation.over(settings, target, *observer.of_statistics(statistics, target))
