"""Task metrics: the quality of the float and the quantized model's outputs on the same samples.

    top1, top5   share of samples whose label is among the one or five classes with the largest scores
    agreement    share of positions at which both models have the largest score in the same place
    cosine       mean over samples of cos(output, reference), each flattened

All use the first floating output, with classes along its last dimension; 1 is the best.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from zeropoint.data.batches import Truth
from zeropoint.data.dataset import Dataset
from zeropoint.errors import InvalidSamples
from zeropoint.metrics.sqnr import finite
from zeropoint.model.source import Source
from zeropoint.schema.labels import LABELS, REFERENCES
from zeropoint.schema.report import MetricReport
from zeropoint.schema.target import MetricName

FEWEST_CLASSES = 2
TOP: Mapping[MetricName, int] = {"top1": 1, "top5": 5}


@dataclass
class Metric:
    """Running sums of the float and the quantized model's scores over `count` samples or positions."""

    float_total: float = 0.0
    total: float = 0.0
    count: int = 0
    parts: list[Tensor] = field(default_factory=list)
    """float64 [N] by batch: the float model's score of each sample minus the quantized model's."""

    def add(self, reference: Tensor, quantized: Tensor) -> None:
        """Add the scores of both models, [N], or [N, ...] for several positions a sample."""
        difference = reference.double() - quantized.double()
        self.parts.append((difference.flatten(1).mean(1) if difference.dim() > 1 else difference.reshape(-1)).cpu())
        self.float_total += float(reference.double().sum())
        self.total += float(quantized.double().sum())
        self.count += reference.numel()

    @property
    def losses(self) -> Tensor:
        """The float model's score of each sample minus the quantized model's, float64 [samples]."""
        return torch.cat([torch.zeros(0, dtype=torch.float64), *self.parts])

    def report(self, name: MetricName) -> MetricReport:
        """Return the means; None where outputs are not finite."""
        expected, value = (finite(total / max(self.count, 1)) for total in (self.float_total, self.total))
        drop = None if expected is None or value is None else expected - value
        return MetricReport(name=name, float_value=expected, value=value, drop=drop)


@dataclass
class Metrics:
    """Every metric that the samples allow; fed batch by batch with the first outputs of both models."""

    by_name: dict[MetricName, Metric] = field(default_factory=dict)

    def add(self, reference: Tensor, quantized: Tensor, truth: Truth) -> None:
        """Add the outputs of both models, of one shape. Raises InvalidSamples when labels or references don't fit."""
        if _classes(reference) >= FEWEST_CLASSES:
            same = reference.argmax(-1) == quantized.argmax(-1)
            self._metric("agreement").add(torch.ones_like(same), same)
        labels = _fitting_labels(reference, truth)
        if labels is not None:
            for name, count in TOP.items():
                self._metric(name).add(*(_hits(output, labels, count) for output in (reference, quantized)))
        if truth.references is not None:
            references = _references(reference, truth.references)
            self._metric("cosine").add(*(_cosines(output, references) for output in (reference, quantized)))

    def reports(self) -> list[MetricReport]:
        """Return the report of each metric."""
        return [metric.report(name) for name, metric in self.by_name.items()]

    def _metric(self, name: MetricName) -> Metric:
        return self.by_name.setdefault(name, Metric())


def first_floating(outputs: Sequence[object]) -> Tensor | None:
    """Return the output that metrics use, the first of a float dtype; None when there is none."""
    floating = (value for value in outputs if isinstance(value, Tensor) and value.is_floating_point())
    return next(floating, None)


def require_truth_fits(source: Source, samples: Dataset) -> None:
    """Run one batch in float, so that labels and references that don't fit are refused before the work begins.

    Raises InvalidSamples.
    """
    if not samples.truths:
        return
    batch, truth = next(samples.judged())
    source.reset()
    with torch.no_grad():
        output = first_floating(source.run(batch))
    source.reset()
    if output is None:
        raise _does_not_fit(samples.truths[0], "the model has no output of a float dtype to compare with it")
    Metrics().add(output.cpu(), output.cpu(), truth)


def _classes(output: Tensor) -> int:
    return output.shape[-1] if output.dim() else 0


def _fitting_labels(output: Tensor, truth: Truth) -> Tensor | None:
    """Return the right classes, [N, k]; None where there are none, or what was assumed to be labels doesn't fit."""
    if truth.labels is None:
        return None
    try:
        return _labels(output, truth.labels.to(output.device))
    except InvalidSamples:
        if not truth.assumed:
            raise
        return None


def _labels(output: Tensor, labels: Tensor) -> Tensor:
    """Return the right classes of each sample, [N, k]."""
    classes = _classes(output)
    if classes < FEWEST_CLASSES:
        raise _does_not_fit(LABELS, f"the first output {list(output.shape)} has no classes along its last dimension")
    if output.numel() != len(labels) * classes:
        reason = f"the first output {list(output.shape)} has not one row of classes for each of {len(labels)} samples"
        raise _does_not_fit(LABELS, reason)
    if labels.numel() and not -1 <= int(labels.min()) <= int(labels.max()) < classes:
        worst = int(labels.max()) if int(labels.max()) >= classes else int(labels.min())
        raise _does_not_fit(LABELS, f"it holds {worst}, and the first output has classes 0 to {classes - 1}")
    return labels.reshape(len(labels), -1)


def _references(output: Tensor, references: Tensor) -> Tensor:
    """Return the references as float64 [N, values]."""
    if output.shape not in (references.shape, references.shape[1:]):
        shapes = f"it is {list(references.shape)} where the first output is {list(output.shape)}"
        raise _does_not_fit(REFERENCES, shapes)
    return references.double().reshape(len(references), -1)


def _hits(output: Tensor, labels: Tensor, count: int) -> Tensor:
    """Return whether one of the right classes [N, k] is among the `count` largest scores, bool [N]."""
    scores = output.reshape(len(labels), -1)
    best = scores.topk(min(count, scores.shape[-1])).indices
    return (best[:, :, None] == labels[:, None, :]).flatten(1).any(1)


def _cosines(output: Tensor, references: Tensor) -> Tensor:
    """Return the cosine of each sample, [N]; 0 where a side is all zeros."""
    return cosine_similarity(output.double().reshape(len(references), -1), references, dim=1)


def _does_not_fit(name: str, why: str) -> InvalidSamples:
    return InvalidSamples(
        "dataset_does_not_fit",
        f"Tensor {name!r} does not fit the model: {why}.",
        "labels are int64 [samples] or [samples, k] of classes of the first output, along its last dimension; "
        "references are floats in its shape. Correct the tensor, or leave it out.",
    )
