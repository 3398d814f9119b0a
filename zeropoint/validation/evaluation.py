"""Evaluation: run the same samples through the float model here and the saved program in the second process."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor, nn

from zeropoint.data.batches import Batches, Truth
from zeropoint.data.dataset import judged
from zeropoint.layers.quantized_layer import QuantizedLayer
from zeropoint.layers.result import Quantized
from zeropoint.metrics.sqnr import Cosine, Noise, Share
from zeropoint.metrics.task_metrics import Metrics
from zeropoint.model.hooks import AfterForward, hooked
from zeropoint.primitives.qparams import QParams
from zeropoint.schema.job import ProgressCallback
from zeropoint.simulation.fake_quant import forward_quantized


class SavedModel(Protocol):
    """The saved files, opened again, which run one batch at a time."""

    @property
    def further_outputs(self) -> Mapping[str, Mapping[int, Tensor]]:
        """The outputs of further artifacts for the last batch, by file name, in the form that `finish` returns."""

    def start(self, batch: Sequence[Tensor]) -> None:
        """Start to run a batch."""

    def finish(self) -> dict[int, Tensor] | None:
        """Return the batch's output tensors, by position; None when the saved files can't run it."""


@dataclass
class Evaluation:
    """The measurements. When the second process fails, `ran` becomes False and the evaluation stops."""

    model: Noise = field(default_factory=Noise)
    layers: dict[str, Noise] = field(default_factory=dict)
    ran: bool = True
    cosine: Cosine = field(default_factory=Cosine)
    saturation: dict[str, Share] = field(default_factory=dict)
    beside: dict[str, Noise] = field(default_factory=dict)
    """Signal and noise of the further artifacts that ran, by file."""
    metrics: Metrics = field(default_factory=Metrics)


@dataclass
class TensorDiff:
    """The comparison of weights without a graph, saved with uploaded, tensor by tensor, in the second process."""

    moves: dict[str, float] = field(default_factory=dict)
    """The largest rounding error of each layer's weight in steps, by layer name."""
    unlike: list[str] = field(default_factory=list)
    """Names of tensors in the saved file that differ from what they should be."""


def evaluate(quantized: Quantized, samples: Batches, reader: SavedModel, step: ProgressCallback) -> Evaluation:
    """Run every batch in both models, and measure signal and noise of the floating-point outputs and of each layer."""
    names = [layer.layer.name for layer in quantized.layers]
    result = Evaluation(layers={name: Noise() for name in names}, saturation={name: Share() for name in names})
    source = quantized.source
    source.reset()
    with torch.no_grad(), hooked(after=_comparisons(quantized.layers, result)):
        for done, (batch, truth) in enumerate(judged(samples), start=1):
            reader.start(batch)
            expected = source.run(batch)
            got = reader.finish()
            if (
                got is None
                or not _add(result, expected, got, truth)
                or not _add_beside(result, expected, reader.further_outputs)
            ):
                result.ran = False
                break
            step(done, len(samples))
    source.reset()
    return result


def _add(result: Evaluation, expected: Sequence[object], got: Mapping[int, Tensor], truth: Truth) -> bool:
    """Add one batch to the result; return False if an output is missing or has another shape or dtype.

    All floating-point outputs count for the noise, and the first one for metrics.
    """
    pairs = _paired(expected, got)
    if pairs:
        result.metrics.add(*pairs[0], truth)
    for reference, value in pairs or ():
        result.model.add(reference, value)
        result.cosine.add(reference, value)
    return pairs is not None


def _add_beside(result: Evaluation, expected: Sequence[object], beside: Mapping[str, Mapping[int, Tensor]]) -> bool:
    """Add one batch of every further artifact to the result; return False as `_add` does."""
    for file, got in beside.items():
        pairs = _paired(expected, got)
        if pairs is None:
            return False
        for reference, value in pairs:
            result.beside.setdefault(file, Noise()).add(reference, value)
    return True


def _paired(expected: Sequence[object], got: Mapping[int, Tensor]) -> list[tuple[Tensor, Tensor]] | None:
    """Pair expected and actual floating-point tensors; return None if one is missing or has another shape or dtype."""
    pairs = []
    for position, reference in enumerate(expected):
        if not isinstance(reference, Tensor):
            continue
        value = got.get(position)
        if value is None or value.shape != reference.shape or value.dtype != reference.dtype:
            return None
        if reference.is_floating_point():
            pairs.append((reference.cpu(), value))
    return pairs


def _comparisons(layers: Sequence[QuantizedLayer], result: Evaluation) -> Iterator[tuple[nn.Module, AfterForward]]:
    """Yield each layer's module with a hook that runs the quantized layer on the same float input."""
    for layer in layers:
        if layer.layer.module is not None:
            yield layer.layer.module, _comparison(layer, result)


def _comparison(layer: QuantizedLayer, result: Evaluation) -> AfterForward:
    noise, clipped = result.layers[layer.layer.name], result.saturation[layer.layer.name]

    def compare(_: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> None:
        values = arguments[0].cpu()
        if layer.activation is not None:
            counted = _on_integers(layer.scale_input(values), layer)
            clipped.count += count_outside(counted, layer.activation.qparams)
            clipped.total += counted.numel()
        noise.add(output.cpu(), forward_quantized(layer, values))

    return compare


def _on_integers(values: Tensor, layer: QuantizedLayer) -> Tensor:
    """Return the values [..., in] that the layer quantizes, without the channels that stay in float."""
    if layer.outliers is None:
        return values
    inside = torch.ones(values.shape[-1], dtype=torch.bool)
    inside[layer.outliers.channels] = False
    return values[..., inside]


def count_outside(values: Tensor, qparams: QParams) -> int:
    """Return how many of `values` [...] are clamped, as per-tensor `qparams` round them outside the integer range."""
    half = float(qparams.scale) / 2
    low = (qparams.quant_type.quant_min - int(qparams.zero_point)) * float(qparams.scale) - half
    high = (qparams.quant_type.quant_max - int(qparams.zero_point)) * float(qparams.scale) + half
    exact = values.to(torch.float32)
    return int(((exact < low) | (exact > high)).sum())
