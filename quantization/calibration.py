"""Calibration: run the float model over samples while collectors watch layer inputs, then let observers choose ranges.

Where a format writes what a convolution gives as integers too, the same pass watches its outlet (`sources.outlets`).

One pass, one batch in memory; the model's own outputs are thrown away.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from quantization.affine import grid_for
from quantization.checkpoints import NO_CHECKPOINTS, Checkpoints
from quantization.errors import InvalidProfile, InvalidSamples
from quantization.layers import Activation
from quantization.observers import observer_for
from quantization.observers.observer import Target
from quantization.passes import Pass
from quantization.profile import CALIBRATE_AGAIN, Profile
from quantization.recipe import ActivationSettings
from quantization.samples import Batches
from quantization.selection import Choice
from quantization.sources.source import Layer, Source
from quantization.statistics import Collector

Step = Callable[[int, int], None]
"""Called with (done, total) after each batch or layer."""

FEW_SAMPLES = 32
"""Fewer lose over 1 dB on the digits network; both bounds are measured in docs/quantization.md."""
LATE_GROWTH = 0.25
"""Share of a range that may come with the last quarter of the batches; more is worth a warning."""


def calibrate(
    source: Source,
    choices: Sequence[Choice],
    samples: Batches,
    step: Step,
    *,
    outputs: bool = False,
    checkpoints: Checkpoints = NO_CHECKPOINTS,
) -> Profile:
    """The statistics that the observers of these choices need; those of outlets are under `outlet_name`."""
    wishes = {c.layer.name: observer_for(c.activations.observer) for c in choices if c.activations is not None}
    layers = [choice.layer for choice in choices if choice.layer.name in wishes]
    histograms = {name for name, wish in wishes.items() if wish.needs_histogram}
    return collect(source, layers, samples, step, histograms, outputs=outputs, checkpoints=checkpoints)


def collect(
    source: Source,
    layers: Sequence[Layer],
    samples: Batches,
    step: Step,
    histograms: Collection[str],
    *,
    outputs: bool = False,
    checkpoints: Checkpoints = NO_CHECKPOINTS,
) -> Profile:
    """Statistics of the inputs of `layers`, with histograms for the names in `histograms`, in one pass.

    `outputs`: those of their outlets too, where they have one.

    Layers without a module, and those that no sample reaches, are left out. The pass goes on from its checkpoint if
    there is one, to the same statistics bit for bit; a long one keeps its end too, which is all that they come from.
    """
    modules = {layer.name: layer.module for layer in layers if layer.module is not None}
    collectors = {name: Collector(histogram=name in histograms) for name in modules}
    for layer in layers:
        if outputs and layer.outlet is not None:
            modules[outlet_name(layer.name)] = layer.outlet
            collectors[outlet_name(layer.name)] = Collector(histogram=layer.name in histograms)
    checkpoints.begin()
    progress = Pass(source, collectors)
    progress.resume(checkpoints)
    if progress.done:
        step(progress.done, len(samples))
    with torch.no_grad(), _watched(modules, collectors):
        for batch in progress.remaining(samples):
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


@contextmanager
def _watched(modules: Mapping[str, nn.Module], collectors: Mapping[str, Collector]) -> Iterator[None]:
    """Hooks that show each module's input to its collector."""

    def hook_for(collector: Collector) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def observe(_: nn.Module, arguments: tuple[Tensor, ...]) -> None:
            collector.observe(arguments[0])

        return observe

    handles = [module.register_forward_pre_hook(hook_for(collectors[name])) for name, module in modules.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _activation(layer: Layer, settings: ActivationSettings, profile: Profile, *, output: bool = False) -> Activation:
    place = f"{'output' if output else 'input'} of layer {layer.name!r}"
    observer = observer_for(settings.observer)
    target = Target(grid_for(settings.dtype, settings.scheme), settings.scheme, layer.scale_dtype)
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
    minimum, maximum = observer.of_statistics(statistics, target)
    return Activation(settings, target.lay(minimum, maximum), float(minimum), float(maximum))
