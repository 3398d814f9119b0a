"""Evaluation: the same samples through the float model here and through the saved program in the second process."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from quantization.affine import dequantize, quantize
from quantization.layers import Quantized, QuantizedLayer
from quantization.loadback import Reader
from quantization.report import EvaluationReport
from quantization.samples import Samples
from quantization.sqnr import Noise

Step = Callable[[int, int], None]


MAX_HELD_OUT_SAMPLES = 256
"""Samples kept out of calibration that evaluate; an evaluation dataset is always used whole."""


@dataclass(frozen=True)
class Chosen:
    """The samples to evaluate on, and what the report says of them."""

    samples: Samples | None
    report: EvaluationReport


def choose_samples(given: Samples | None, held_out: Samples | None, calibration: Samples | None) -> Chosen:
    """The evaluation dataset, else samples kept out of calibration, else the calibration samples, else none."""
    if given is not None:
        return Chosen(given, EvaluationReport(source="evaluation_dataset", samples=given.count))
    if held_out is not None:
        some = held_out.between(held_out.start, min(held_out.stop, held_out.start + MAX_HELD_OUT_SAMPLES))
        return Chosen(some, EvaluationReport(source="held_out", samples=some.count))
    if calibration is not None:
        return Chosen(calibration, EvaluationReport(source="calibration_samples", samples=calibration.count))
    return Chosen(None, EvaluationReport(source="none", samples=0))


@dataclass
class Evaluation:
    """What was measured. `ran` is false as soon as the second process fails once, and the measurement stops there."""

    model: Noise = field(default_factory=Noise)
    layers: dict[str, Noise] = field(default_factory=dict)
    ran: bool = True


def evaluate(quantized: Quantized, samples: Samples, reader: Reader, step: Step) -> Evaluation:
    """Run every batch on both sides; add up signal and noise of the floating outputs, and of each layer's."""
    result = Evaluation(layers={layer.layer.name: Noise() for layer in quantized.layers})
    source = quantized.source
    source.reset()
    with torch.no_grad(), _compared(quantized.layers, result.layers):
        for done, batch in enumerate(samples, start=1):
            reader.start(batch)
            expected = source.run(batch)
            got = reader.finish()
            if got is None or not _add(result.model, expected, got):
                result.ran = False
                break
            step(done, len(samples))
    source.reset()
    return result


def _add(noise: Noise, expected: Sequence[object], got: dict[int, Tensor]) -> bool:
    """Whether every tensor came back in its shape and dtype; floating ones count."""
    for position, reference in enumerate(expected):
        if not isinstance(reference, Tensor):
            continue
        value = got.get(position)
        if value is None or value.shape != reference.shape or value.dtype != reference.dtype:
            return False
        if reference.is_floating_point():
            noise.add(reference.cpu(), value)
    return True


@contextmanager
def _compared(layers: Sequence[QuantizedLayer], noises: dict[str, Noise]) -> Iterator[None]:
    """Hooks that compute each layer a second time, quantized, on the float input it just had."""
    handles = [
        layer.layer.module.register_forward_hook(_comparison(layer, noises[layer.layer.name]))
        for layer in layers
        if layer.layer.module is not None
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _comparison(layer: QuantizedLayer, noise: Noise) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
    def compare(module: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> None:
        values = arguments[0].cpu()
        if layer.activation is not None:
            grid = layer.activation.affine
            values = dequantize(quantize(values, grid), grid).to(values.dtype)
        weight = layer.dequantized_weight.to(values.dtype)
        bias = None if layer.layer.bias is None else layer.layer.bias.cpu()
        forward = linear if isinstance(module, nn.Linear) else module._conv_forward
        noise.add(output.cpu(), forward(values, weight, bias))  # type: ignore[operator]

    return compare
