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
from zeropoint.loading.saved_runs import Also
from zeropoint.metrics.rows import Rows, can_split
from zeropoint.metrics.sqnr import Noise, Share
from zeropoint.metrics.task_metrics import Metrics
from zeropoint.model.hooks import AfterForward, hooked
from zeropoint.primitives.qparams import QParams
from zeropoint.schema.job import ProgressCallback
from zeropoint.simulation.fake_quant import forward_quantized
from zeropoint.validation.float_run import watch_float_run
from zeropoint.validation.outputs import Outputs
from zeropoint.validation.runs import RuntimeRuns


class SavedModel(Protocol):
    """The saved files, opened again, which run one batch at a time."""

    @property
    def further_outputs(self) -> Mapping[str, Mapping[int, Tensor]]:
        """The outputs of further artifacts for the last batch, by file name, in the form that `finish` returns."""

    @property
    def also_outputs(self) -> Mapping[str, Mapping[int, Tensor]]:
        """The outputs of further runs of the last batch, by their names, likewise."""

    def start(self, batch: Sequence[Tensor], also: Sequence[Also] = ()) -> None:
        """Start to run a batch; `also`: further runs of it."""

    def finish(self) -> dict[int, Tensor] | None:
        """Return the batch's output tensors, by position; None when the saved files can't run it."""


@dataclass
class Evaluation:
    """The measurements. When the second process fails, `ran` becomes False and the evaluation stops."""

    outputs: Outputs = field(default_factory=Outputs)
    layers: dict[str, Noise] = field(default_factory=dict)
    ran: bool = True
    saturation: dict[str, Share] = field(default_factory=dict)
    channels: dict[str, Tensor] = field(default_factory=dict)
    """The largest |x| of each channel of a layer's input [C], by layer name, of layers with a static range."""
    beside: dict[str, Outputs] = field(default_factory=dict)
    """The comparison of the further artifacts that ran, by file."""
    metrics: Metrics = field(default_factory=Metrics)
    rows: list[Rows] = field(default_factory=list)
    """Signal and noise of each sample in each floating output, if anything follows from single samples."""
    macs: Mapping[str, int] | None = None
    """Multiply-accumulates of the first batch by layer name; None if nothing was run."""
    unstable: list[str] = field(default_factory=list)
    """Outputs of the float model that differ between two runs of the first batch."""
    runs: RuntimeRuns = field(default_factory=RuntimeRuns)
    """What runtimes gave on the first samples."""
    samples: int = 0
    """How many were run."""


@dataclass
class TensorDiff:
    """The comparison of weights without a graph, saved with uploaded, tensor by tensor, in the second process."""

    max_errors: dict[str, float] = field(default_factory=dict)
    """The largest rounding error of each layer's weight in steps, by layer name."""
    unlike: list[str] = field(default_factory=list)
    """Names of tensors in the saved file that differ from what they should be."""


def evaluate(
    quantized: Quantized,
    samples: Batches,
    reader: SavedModel,
    step: ProgressCallback,
    also: Sequence[Also] = (),
) -> Evaluation:
    """Run every batch in both models, and measure signal and noise of the outputs and of each layer.

    The first batch is run twice in the float model (see `float_run`), and the first batches `also` as runtimes do.
    """
    names = [layer.layer.name for layer in quantized.layers]
    result = Evaluation(layers={name: Noise() for name in names}, saturation={name: Share() for name in names})
    source, by_row = quantized.source, quantized.neighbours_alike or bool(quantized.decisions.gains)
    source.reset()
    with torch.no_grad():
        for done, (batch, truth) in enumerate(judged(samples), start=1):
            watched = watch_float_run(source, batch) if done == 1 else None
            reader.start(batch, also if result.runs.take(batch) else ())
            with hooked(after=_comparisons(quantized.layers, result)):
                expected = source.run(batch)
            if watched is not None:
                result.macs = watched.macs
                result.unstable = [expected.names[position] for position in watched.differs(expected)]
            if not _add(result, expected, reader, truth, samples=_samples_in(batch) if by_row else None):
                result.ran = False
                break
            result.samples += _samples_in(batch)
            step(done, len(samples))
    source.reset()
    return result


def _samples_in(batch: Sequence[Tensor]) -> int:
    """Return the size of the first dimension of the first tensor; 1 for a scalar."""
    return len(batch[0]) if batch[0].dim() else 1


def _add(
    result: Evaluation, expected: Sequence[object], reader: SavedModel, truth: Truth, *, samples: int | None
) -> bool:
    """Add one batch to the result; return False if an output of a saved file is missing or has another shape or dtype.

    Metrics use the first floating output.
    """
    got = reader.finish()
    if got is None or not result.outputs.add(expected, got):
        return False
    floating = [(v, got[i]) for i, v in enumerate(expected) if isinstance(v, Tensor) and v.is_floating_point()]
    if result.runs.taking:
        result.runs.add(expected, got, reader.further_outputs, reader.also_outputs)
    if floating:
        result.metrics.add(floating[0][0].cpu(), floating[0][1], truth)
    if samples is not None:
        result.rows += [Rows() for _ in floating[len(result.rows) :]]
        split = can_split([reference for reference, _ in floating], samples)
        for rows, (reference, value) in zip(result.rows, floating, strict=True):
            rows.add(reference.cpu(), value, samples if split else None, None)
    further = reader.further_outputs
    return all(result.beside.setdefault(file, Outputs()).add(expected, further[file]) for file in further)


def _comparisons(layers: Sequence[QuantizedLayer], result: Evaluation) -> Iterator[tuple[nn.Module, AfterForward]]:
    """Yield each layer's module with a hook that runs the quantized layer on the same float input."""
    for layer in layers:
        if layer.layer.module is not None:
            yield layer.layer.module, _comparison(layer, result)


def _comparison(layer: QuantizedLayer, result: Evaluation) -> AfterForward:
    noise, clipped = result.layers[layer.layer.name], result.saturation[layer.layer.name]

    def compare(_: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> None:
        if layer.layer.is_held:
            noise.add(output.cpu(), forward_quantized(layer).cpu())
            return
        values = arguments[0].cpu()
        if layer.activation is not None:
            _watch_channels(result, layer, values)
            counted = _on_integers(layer.scale_input(values), layer)
            clipped.count += count_outside(counted, layer.activation.qparams)
            clipped.total += counted.numel()
        noise.add(output.cpu(), forward_quantized(layer, values, *arguments[1:]))

    return compare


def _watch_channels(result: Evaluation, layer: QuantizedLayer, values: Tensor) -> None:
    """Keep the largest |x| of each channel of the layer's input."""
    axis, name = layer.layer.channel_axis, layer.layer.name
    if axis is None or values.dim() < -axis or not values.numel():
        return
    others = [dimension for dimension in range(values.dim()) if dimension != values.dim() + axis]
    largest = values.abs().amax(others).float() if others else values.abs().float()
    before = result.channels.get(name)
    result.channels[name] = largest if before is None else torch.maximum(before, largest)


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
