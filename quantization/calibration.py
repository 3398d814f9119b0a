"""Calibration: run the float model over samples while an observer watches the input of every chosen layer.

One pass, one batch in memory; the model's own outputs are thrown away.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from quantization.affine import QUINT8, asymmetric
from quantization.errors import InvalidSamples
from quantization.layers import Activation
from quantization.observers import Observer, observer_for
from quantization.samples import Samples
from quantization.selection import Choice
from quantization.sources.source import Source

Step = Callable[[int, int], None]
"""Called with (done, total) after each batch or layer."""


def calibrate(source: Source, choices: Sequence[Choice], samples: Samples, step: Step) -> dict[str, Activation]:
    """The static grid of each chosen layer's input, by layer name.

    Raises InvalidSamples when a layer's input turned NaN or infinite, naming the layer.
    """
    observers = {c.layer.name: observer_for(c.activations.observer) for c in choices if c.activations is not None}
    source.reset()
    with torch.no_grad(), _watched(choices, observers):
        for done, batch in enumerate(samples, start=1):
            source.run(batch)
            step(done, len(samples))
    source.reset()
    return {c.layer.name: _activation(c, observers[c.layer.name]) for c in choices if c.layer.name in observers}


@contextmanager
def _watched(choices: Sequence[Choice], observers: dict[str, Observer]) -> Iterator[None]:
    """Hooks that show each layer's input to its observer."""

    def hook_for(observer: Observer) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def observe(_: nn.Module, arguments: tuple[Tensor, ...]) -> None:
            observer.observe(arguments[0])

        return observe

    handles = [
        choice.layer.module.register_forward_pre_hook(hook_for(observers[choice.layer.name]))
        for choice in choices
        if choice.layer.module is not None and choice.layer.name in observers
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _activation(choice: Choice, observer: Observer) -> Activation:
    assert choice.activations is not None
    minimum, maximum = (bound.cpu() for bound in observer.range())
    if not bool(torch.isfinite(minimum) & torch.isfinite(maximum)):
        raise InvalidSamples(
            "non_finite_activations",
            f"The input of layer {choice.layer.name!r} becomes NaN or infinite during calibration.",
            "Check that the float model gives finite outputs on these samples.",
        )
    return Activation(choice.activations, asymmetric(minimum, maximum, QUINT8), float(minimum), float(maximum))
