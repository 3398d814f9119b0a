"""Calibration: run the float model over samples while collectors observe the inputs of layers.

If a format also quantizes the outputs of convolutions, the same pass observes their fused outputs
(`graph.fused_outputs`). It is one pass with one batch in memory; the model's outputs are dropped.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from zeropoint.calibration.profile import Profile
from zeropoint.calibration.resume import Pass
from zeropoint.data.batches import Batches
from zeropoint.files.checkpoints import NO_CHECKPOINTS, Checkpoints
from zeropoint.layers.selection import Choice, is_targeted
from zeropoint.model.hooks import watched
from zeropoint.model.layer import Layer
from zeropoint.model.source import Source
from zeropoint.observers import observer_for
from zeropoint.observers.statistics import Collector
from zeropoint.schema.algorithms import NEEDS_CHANNELS, NEEDS_HISTOGRAMS
from zeropoint.schema.job import ProgressCallback
from zeropoint.schema.presets import algorithms_of
from zeropoint.schema.recipe import Recipe


@dataclass(frozen=True)
class Wanted:
    """What a pass observes besides ranges: histograms and single channels, by layer name, and fused outputs."""

    histograms: Collection[str] = ()
    channels: Collection[str] = ()
    outputs: bool = False
    """Whether fused outputs are observed too, where layers have one."""


def everything(layers: Iterable[Layer]) -> Wanted:
    """Return everything that any recipe may need."""
    names = {layer.name for layer in layers}
    return Wanted(names, names, outputs=True)


def calibrate(
    source: Source,
    choices: Sequence[Choice],
    recipe: Recipe,
    samples: Batches,
    step: ProgressCallback,
    *,
    checkpoints: Checkpoints = NO_CHECKPOINTS,
) -> Profile:
    """Return the statistics that the recipe's observers and algorithms need for these choices."""
    layers, wanted = wanted_by(choices, recipe)
    return collect(source, layers, samples, step, wanted, checkpoints=checkpoints)


def wanted_by(choices: Sequence[Choice], recipe: Recipe) -> tuple[list[Layer], Wanted]:
    """Return the layers whose inputs the recipe's observers and algorithms need, and what to observe there."""
    algorithms = algorithms_of(recipe)
    wishes = {c.layer.name: observer_for(c.activations.observer) for c in choices if c.activations is not None}
    histograms = {name for name, wish in wishes.items() if wish.needs_histogram}
    histograms |= {c.layer.name for c in choices if is_targeted(c.layer, algorithms, NEEDS_HISTOGRAMS)}
    channels = {c.layer.name for c in choices if is_targeted(c.layer, algorithms, NEEDS_CHANNELS)}
    layers = [choice.layer for choice in choices if choice.layer.name in {*wishes, *channels}]
    return layers, Wanted(histograms, channels, outputs=recipe.needs_outputs)


def collect(
    source: Source,
    layers: Sequence[Layer],
    samples: Batches,
    step: ProgressCallback,
    wanted: Wanted,
    *,
    checkpoints: Checkpoints = NO_CHECKPOINTS,
) -> Profile:
    """Return statistics of the inputs of `layers`, and of what else is `wanted`, from one forward pass.

    Padding is not counted (`data.padding`). Layers without a module, and those that no sample reaches, are left out.
    The pass continues from its checkpoint if there is one, to bit-identical statistics; the final state of a long pass
    is stored too, so that a later attempt runs no batch.
    """
    modules, collectors = _collectors(layers, wanted)
    checkpoints.begin()
    progress = Pass(source, collectors)
    progress.resume(checkpoints)
    if progress.done:
        step(progress.done, len(samples))
    with torch.no_grad(), watched(modules, {name: collectors[name].observe for name in modules}) as current:
        for batch in progress.remaining(samples):
            current.start(batch)
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
    """Return the modules to observe and a collector for each, by name; fused outputs have their `fused_output_name`."""
    modules = {layer.name: layer.module for layer in layers if layer.module is not None}
    axes = {layer.name: layer.channel_axis for layer in layers if layer.name in wanted.channels}
    collectors = {n: Collector(histogram=n in wanted.histograms, channel_axis=axes.get(n)) for n in modules}
    for layer in layers:
        if wanted.outputs and layer.fused_output is not None:
            modules[fused_output_name(layer.name)] = layer.fused_output
            collectors[fused_output_name(layer.name)] = Collector(histogram=True)
    return modules, collectors


def fused_output_name(layer: str) -> str:
    """Return the name for the statistics of a layer's fused output; it is unique, as layer names have no colon."""
    return f"{layer}:output"
