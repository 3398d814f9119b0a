"""Search for a target: try algorithms until it is met, then leave as few layers in float as necessary.

min_sqnr_db, max_drop   algorithms in their order until the target is met; if they aren't enough, the shortest list of
                        float layers that meets it, in order of the probe's noise per multiply-accumulate
max_bytes               all algorithms; then layers return to float, in order of noise per extra byte, while they fit

If the target can't be met, the closest candidate is the result, and the report says so.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from zeropoint.algorithms.context import AlgorithmContext, Layers, with_unshared_weight
from zeropoint.layers.result import Quantized
from zeropoint.metrics.sqnr import finite
from zeropoint.model.source import Source
from zeropoint.schema.algorithms import AlgorithmSettings, BiasCorrection
from zeropoint.schema.recipe import Recipe
from zeropoint.schema.report import NOT_CALIBRATED, TargetReport
from zeropoint.schema.target import AccuracyTarget
from zeropoint.search.trial import Candidate, OnCandidate, try_algorithms
from zeropoint.simulation.measure import Evaluator
from zeropoint.simulation.sensitivity import Sensitivity, by_noise_per_mac, probe

MARGIN_DB = 0.3
"""Margin in dB above a requested SQNR: similar samples differ by as much (docs/explanation/accuracy.md)."""


@dataclass(frozen=True)
class TargetCheck:
    """A target and how to measure it. `metric_drop` returns how much lower the metric is than the float model's."""

    asked: AccuracyTarget
    source: Source
    metric_drop: Callable[[Layers], float] | None = None

    @property
    def sqnr_db(self) -> float | None:
        """The SQNR in dB required on the acceptance samples; None when the target is not an SQNR."""
        return None if self.asked.min_sqnr_db is None else self.asked.min_sqnr_db + MARGIN_DB

    @property
    def bytes_asked(self) -> int | None:
        return self.asked.max_bytes

    def met(self, candidate: Candidate) -> bool:
        """Return whether a candidate meets the target."""
        if self.sqnr_db is not None:
            return candidate.noise.noise <= candidate.noise.signal / 10 ** (self.sqnr_db / 10)
        value = self.value(candidate)
        bound = self.bytes_asked if self.asked.max_drop is None else self.asked.max_drop.value
        return value is not None and bound is not None and value <= bound

    def value(self, candidate: Candidate) -> float | None:
        """Return what a candidate reaches, in the target's unit; None when that is infinite or not a number."""
        if self.asked.min_sqnr_db is not None:
            return finite(candidate.noise.db)
        if self.bytes_asked is not None:
            return self.bytes_of(candidate.layers)
        return None if self.metric_drop is None else self.metric_drop(candidate.layers)

    def bytes_of(self, layers: Layers) -> int:
        """Return the bytes of all tensors that would be stored."""
        return Quantized(self.source, Recipe(), list(layers.values()), [], NOT_CALIBRATED, {}).bytes

    def report(self, candidate: Candidate, share: float | None, in_float: int) -> TargetReport:
        """Return the report on the target: what was asked, and what the candidate reaches."""
        met = self.met(candidate)
        detail = "The target is met" if met else "The target can't be met: this is the best that was found"
        detail += f"; {in_float} of the layers that could be quantized stay in float."
        return TargetReport(
            asked=self.asked,
            met=met,
            value=self.value(candidate),
            layers_in_float=in_float,
            macs_in_float=share,
            detail=detail,
        )


@dataclass(frozen=True)
class Search:
    """The inputs of a search for a target."""

    context: AlgorithmContext
    acceptance: Evaluator
    target_check: TargetCheck
    algorithms: Sequence[AlgorithmSettings]


def reach_target(
    search: Search, candidate: Candidate, everything: Layers, step: OnCandidate
) -> tuple[Candidate, TargetReport]:
    """Return the candidate that meets the target, or the closest one. `everything`: the layers before the search."""
    for settings in search.algorithms:
        if search.target_check.bytes_asked is None and search.target_check.met(candidate):
            break
        candidate = try_algorithms(search.context, search.acceptance, candidate, [settings], step)
    sensitivity = probe(search.context.source, with_unshared_weight(candidate.layers), search.context.calibration)
    if sensitivity is not None and search.target_check.bytes_asked is not None:
        candidate = _within_bytes(search, candidate, sensitivity)
    elif sensitivity is not None and not search.target_check.met(candidate):
        candidate = _corrected(search, _fewest_in_float(search, candidate, sensitivity))
    in_float = [name for name in everything if name not in candidate.layers]
    return candidate, search.target_check.report(candidate, _share(sensitivity, in_float), len(in_float))


def _fewest_in_float(search: Search, candidate: Candidate, sensitivity: Sensitivity) -> Candidate:
    """Return the candidate with the fewest float layers that meets the target, or the one with the least noise."""
    order = by_noise_per_mac(sensitivity)
    low, high = 0, max(len(order) - 1, 0)  # a result has at least one quantized layer
    tried: dict[int, Candidate] = {}
    while low < high:
        middle = (low + high) // 2 if tried else min(_predicted(search, sensitivity, order), high - 1)
        tried[middle] = _without(search, candidate, order[:middle])
        low, high = (low, middle) if search.target_check.met(tried[middle]) else (middle + 1, high)
    if low not in tried:
        tried[low] = _without(search, candidate, order[:low])
    return (
        tried[low]
        if search.target_check.met(tried[low])
        else min((candidate, *tried.values()), key=lambda attempt: attempt.noise.noise)
    )


def _predicted(search: Search, sensitivity: Sensitivity, order: Sequence[str]) -> int:
    """Return how many float layers the probe predicts to suffice, at least 1; half of them without an SQNR target."""
    bound = search.target_check.sqnr_db
    if bound is None:
        return len(order) // 2
    remaining = sum(sensitivity.noise.values())
    for number, name in enumerate(order[:-1]):
        if remaining <= sensitivity.signal / 10 ** (bound / 10):
            return max(number, 1)
        remaining -= sensitivity.noise[name]
    return len(order) - 1


def _within_bytes(search: Search, candidate: Candidate, sensitivity: Sensitivity) -> Candidate:
    """Return layers to float, in order of noise per extra byte, while the stored size stays within the bound."""
    bound = search.target_check.bytes_asked
    extra = {
        n: max(candidate.layers[n].layer.bytes - candidate.layers[n].bytes, 1)
        for n in sensitivity.noise
        if n in candidate.layers
    }
    chosen: list[str] = []
    size = search.target_check.bytes_of(candidate.layers)
    for name in sorted(extra, key=lambda name: -sensitivity.noise[name] / extra[name]):
        if bound is not None and size + extra[name] <= bound:
            chosen.append(name)
            size += extra[name]
    tried = _without(search, candidate, chosen)
    return tried if chosen and tried.noise.noise < candidate.noise.noise else candidate


def _without(search: Search, candidate: Candidate, names: Sequence[str]) -> Candidate:
    kept = {name: layer for name, layer in candidate.layers.items() if name not in set(names)}
    return replace(candidate, layers=kept, noise=search.acceptance.noise(kept.values()), tried=())


def _corrected(search: Search, candidate: Candidate) -> Candidate:
    """Correct biases again if any was corrected: layers now in float caused part of the error."""
    if not any(layer.bias is not None for layer in candidate.layers.values()):
        return candidate
    again = try_algorithms(search.context, search.acceptance, candidate, [BiasCorrection()])
    return again if search.target_check.met(again) or not search.target_check.met(candidate) else candidate


def _share(sensitivity: Sensitivity | None, names: Sequence[str]) -> float | None:
    """Return these layers' share of the multiply-accumulates of all quantizable layers."""
    work = 0 if sensitivity is None else sum(sensitivity.macs.values())
    return None if sensitivity is None or not work else sum(sensitivity.macs.get(name, 0) for name in names) / work
