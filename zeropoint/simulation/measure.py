"""Measure the effect of quantized layers on the whole model, as noise and as metrics, repeatedly on the same samples.

The float model's outputs are kept if they are small enough. Masked positions (`data.padding`) are not counted.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

from torch import Tensor

from zeropoint.data.batches import Batches, Truth
from zeropoint.data.dataset import judged
from zeropoint.data.padding import mask_of, visible
from zeropoint.errors import InvalidSamples
from zeropoint.layers.quantized_layer import QuantizedLayer
from zeropoint.metrics.rows import Rows, can_split, pooled_rows
from zeropoint.metrics.sqnr import Noise, pooled
from zeropoint.metrics.task_metrics import Metrics
from zeropoint.model.source import Source, floating_outputs
from zeropoint.schema.labels import NEEDS
from zeropoint.schema.recipe import Recipe
from zeropoint.schema.target import MetricName
from zeropoint.simulation.fake_quant import simulated

MAX_KEPT_BYTES = 2**28


@dataclass(frozen=True)
class Measurement:
    """Signal and noise of the floating-point outputs (see `metrics.sqnr.pooled`), and metrics of the first one."""

    noise: Noise = field(default_factory=Noise)
    metrics: Metrics = field(default_factory=Metrics)
    exact: bool = False
    """Whether there are floating outputs, and all are equal."""


@dataclass(frozen=True)
class MetricLoss:
    """How much lower a metric is than the float model's: `drop`, infinity where outputs are not finite, and by sample.

    `rows`: float64 [samples], the float model's score of each sample minus the quantized model's.
    """

    drop: float
    rows: Tensor


MetricDrop = Callable[[Mapping[str, QuantizedLayer]], MetricLoss]
"""Returns how much the given layers lower a target's metric."""


Effect = Callable[[Iterable[QuantizedLayer]], AbstractContextManager[None]]
"""Returns the block within which the float model computes with something of these layers."""


class Compared(NamedTuple):
    """One batch, the noise of each output, the outputs of the float and of the quantized model, and the truth."""

    batch: Sequence[Tensor]
    noises: list[Noise]
    expected: list[Tensor]
    outputs: list[Tensor]
    truth: Truth


class Evaluator:
    """Measures on `samples`; the float model's outputs are kept if they are small enough, else computed each time.

    `effect`: what the given layers do to the float model; without it they are quantized.
    """

    def __init__(self, source: Source, samples: Batches, effect: Effect = simulated) -> None:
        self._source, self._samples, self._effect = source, samples, effect
        self._kept: list[list[Tensor]] = []

    @property
    def samples(self) -> int:
        """The number of samples; that of a stream is known once it was read."""
        return self._samples.count

    def measure(self, layers: Iterable[QuantizedLayer]) -> Measurement:
        """Measure noise and metrics with these layers in place of the float ones. Raises InvalidSamples."""
        noises: list[Noise] = []
        metrics = Metrics()
        for _, batch, expected, outputs, truth in self._compared(list(layers)):
            _join(noises, batch)
            if expected:
                metrics.add(expected[0], outputs[0], truth)
        return Measurement(pooled(noises), metrics, exact=bool(noises) and all(noise.exact for noise in noises))

    def noise(self, layers: Iterable[QuantizedLayer]) -> Noise:
        """Measure the noise alone, by which algorithms are kept or dropped. Raises InvalidSamples."""
        noises: list[Noise] = []
        for _, batch, *_ in self._compared(list(layers)):
            _join(noises, batch)
        return pooled(noises)

    def by_row(self, layers: Iterable[QuantizedLayer]) -> Rows:
        """Measure the signal and noise of each sample. Raises InvalidSamples."""
        rows: list[Rows] = []
        for batch, _, expected, outputs, _ in self._compared(list(layers)):
            samples, mask = len(batch[0]) if batch[0].dim() else 1, mask_of(batch)
            rows += [Rows() for _ in expected[len(rows) :]]
            split = can_split(expected, samples)
            for output, reference, value in zip(rows, expected, outputs, strict=True):
                output.add(reference, value, samples if split else None, mask)
        return pooled_rows(rows)

    def metric_drop(self, recipe: Recipe) -> MetricDrop | None:
        """Return a function from layers to their loss of the target's metric; None if the target has no metric."""
        bound = None if recipe.target is None else recipe.target.max_drop
        return None if bound is None else partial(self._drop, bound.metric)

    def _drop(self, metric: MetricName, layers: Mapping[str, QuantizedLayer]) -> MetricLoss:
        """Return how much these layers lower a metric.

        Raises InvalidSamples when the samples lack what the metric needs.
        """
        values = self.measure(layers.values()).metrics.by_name.get(metric)
        if values is None:
            raise InvalidSamples(
                "dataset_does_not_fit",
                f"The samples to measure on don't allow {metric}: they hold no {NEEDS.get(metric, 'classes')}.",
                f"Give evaluation data that hold {NEEDS.get(metric, 'classes')}, or ask for another metric.",
            )
        drop = values.report(metric).drop
        return MetricLoss(math.inf if drop is None else drop, values.losses)

    def _compared(self, layers: list[QuantizedLayer]) -> Iterator[Compared]:
        """Yield each batch with what was measured on it."""
        for number, (batch, truth) in enumerate(judged(self._samples)):
            expected, mask = self._expected(number, batch), mask_of(batch)
            with self._effect(layers):
                outputs = floating_outputs(self._source, batch)
            noises = [Noise() for _ in expected]
            for noise, reference, value in zip(noises, expected, outputs, strict=True):
                noise.add(visible(reference, mask), visible(value, mask))
            yield Compared(batch, noises, expected, outputs, truth)
        self._source.reset()

    def _expected(self, number: int, batch: Sequence[Tensor]) -> list[Tensor]:
        if number < len(self._kept):
            return self._kept[number]
        outputs = floating_outputs(self._source, batch)
        size = sum(tensor.nbytes for tensor in outputs) * max(len(self._samples), 1)
        if number == len(self._kept) and size <= MAX_KEPT_BYTES:
            self._kept.append(outputs)
        return outputs


def _join(totals: list[Noise], batch: Sequence[Noise]) -> None:
    """Add the noise of a batch's outputs to the totals, by position."""
    totals += [Noise() for _ in batch[len(totals) :]]
    for total, noise in zip(totals, batch, strict=True):
        total.join(noise)
