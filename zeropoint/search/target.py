"""A target: algorithms are tried until it is met, and then layers stay in float, as few as it takes.

min_sqnr_db, max_drop   pieces in their order until the target is met; if none of it is enough, the shortest list of
                        layers in float that meets it, in the order of the probe's noise for each multiply-accumulate
max_bytes               all pieces; then layers go back to float by their noise for each byte that costs, while it fits

Where the target can't be met, what came nearest is the result, and the report says so.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from zeropoint.algorithms.context import Bench, Layers, untied
from zeropoint.layers.result import Quantized
from zeropoint.metrics.sqnr import finite
from zeropoint.model.source import Source
from zeropoint.schema.algorithms import AlgorithmSettings, BiasCorrection
from zeropoint.schema.recipe import Recipe
from zeropoint.schema.report import NOT_CALIBRATED, TargetReport
from zeropoint.schema.target import Target
from zeropoint.search.trial import Improved, Step, improve
from zeropoint.simulation.measure import Judge
from zeropoint.simulation.sensitivity import Sensitivity, by_bargain, probe

MARGIN_DB = 0.3
"""What the gate must show above a wished SQNR: other samples of the same kind differ by so much (docs/accuracy.md)."""


@dataclass(frozen=True)
class Goal:
    """What is asked, and how it is measured. `drop_of`: how much lower the metric of these layers is than the float
    model's."""

    asked: Target
    source: Source
    drop_of: Callable[[Layers], float] | None = None

    @property
    def sqnr_db(self) -> float | None:
        """What the gate must show, in dB; None when the goal is another."""
        return None if self.asked.min_sqnr_db is None else self.asked.min_sqnr_db + MARGIN_DB

    @property
    def bytes_asked(self) -> int | None:
        return self.asked.max_bytes

    def met(self, now: Improved) -> bool:
        """Whether these layers do."""
        if self.sqnr_db is not None:
            return now.noise.noise <= now.noise.signal / 10 ** (self.sqnr_db / 10)
        value = self.value(now)
        bound = self.bytes_asked if self.asked.max_drop is None else self.asked.max_drop.value
        return value is not None and bound is not None and value <= bound

    def value(self, now: Improved) -> float | None:
        """What these layers reach, in the unit of the target; None: exact, or not a number."""
        if self.asked.min_sqnr_db is not None:
            return finite(now.noise.db)
        if self.bytes_asked is not None:
            return self.bytes_of(now.layers)
        return None if self.drop_of is None else self.drop_of(now.layers)

    def bytes_of(self, layers: Layers) -> int:
        """Bytes of everything that would be stored."""
        return Quantized(self.source, Recipe(), list(layers.values()), [], NOT_CALIBRATED, {}).bytes

    def report(self, now: Improved, share: float | None, in_float: int) -> TargetReport:
        """What was asked, and what came of it."""
        met = self.met(now)
        detail = "The target is met" if met else "The target can't be met: this is the best that was found"
        detail += f"; {in_float} of the layers that could be quantized stay in float."
        return TargetReport(
            asked=self.asked,
            met=met,
            value=self.value(now),
            layers_in_float=in_float,
            macs_in_float=share,
            detail=detail,
        )


@dataclass(frozen=True)
class Search:
    """What a search works with."""

    bench: Bench
    gate: Judge
    goal: Goal
    pieces: Sequence[AlgorithmSettings]


def reach(search: Search, now: Improved, everything: Layers, step: Step) -> tuple[Improved, TargetReport]:
    """The layers that meet the target, or come nearest. `everything`: those that there were before the search."""
    for piece in search.pieces:
        if search.goal.bytes_asked is None and search.goal.met(now):
            break
        now = improve(search.bench, search.gate, now, [piece], step)
    found = probe(search.bench.source, untied(now.layers), search.bench.calibration)
    if found is not None and search.goal.bytes_asked is not None:
        now = _within_bytes(search, now, found)
    elif found is not None and not search.goal.met(now):
        now = _corrected(search, _fewest_in_float(search, now, found))
    left = [name for name in everything if name not in now.layers]
    return now, search.goal.report(now, _share(found, left), len(left))


def _fewest_in_float(search: Search, now: Improved, found: Sensitivity) -> Improved:
    """The shortest list of layers in float that meets the goal; the one with the least noise where none does."""
    order = by_bargain(found)
    low, high = 0, max(len(order) - 1, 0)  # a result has one quantized layer at least
    tried: dict[int, Improved] = {}
    while low < high:
        middle = (low + high) // 2 if tried else min(_predicted(search, found, order), high - 1)
        tried[middle] = _without(search, now, order[:middle])
        low, high = (low, middle) if search.goal.met(tried[middle]) else (middle + 1, high)
    if low not in tried:
        tried[low] = _without(search, now, order[:low])
    return tried[low] if search.goal.met(tried[low]) else min((now, *tried.values()), key=lambda one: one.noise.noise)


def _predicted(search: Search, found: Sensitivity, order: Sequence[str]) -> int:
    """How many layers the probe thinks are enough, at least 1; the middle where the goal is no SQNR."""
    bound = search.goal.sqnr_db
    if bound is None:
        return len(order) // 2
    left = sum(found.noise.values())
    for number, name in enumerate(order[:-1]):
        if left <= found.signal / 10 ** (bound / 10):
            return max(number, 1)
        left -= found.noise[name]
    return len(order) - 1


def _within_bytes(search: Search, now: Improved, found: Sensitivity) -> Improved:
    """Layers back in float, the most noise for each byte first, while what is stored stays within the bound."""
    bound = search.goal.bytes_asked
    extra = {n: max(now.layers[n].layer.bytes - now.layers[n].bytes, 1) for n in found.noise if n in now.layers}
    chosen: list[str] = []
    size = search.goal.bytes_of(now.layers)
    for name in sorted(extra, key=lambda name: -found.noise[name] / extra[name]):
        if bound is not None and size + extra[name] <= bound:
            chosen.append(name)
            size += extra[name]
    tried = _without(search, now, chosen)
    return tried if chosen and tried.noise.noise < now.noise.noise else now


def _without(search: Search, now: Improved, names: Sequence[str]) -> Improved:
    left = {name: one for name, one in now.layers.items() if name not in set(names)}
    return replace(now, layers=left, noise=search.gate.noise(left.values()), tried=())


def _corrected(search: Search, now: Improved) -> Improved:
    """Biases corrected anew where they were before: layers that are in float now made some of the error."""
    if not any(one.bias is not None for one in now.layers.values()):
        return now
    again = improve(search.bench, search.gate, now, [BiasCorrection()])
    return again if search.goal.met(again) or not search.goal.met(now) else now


def _share(found: Sensitivity | None, names: Sequence[str]) -> float | None:
    """Share of the multiply-accumulates of all quantizable layers that these do."""
    work = 0 if found is None else sum(found.macs.values())
    return None if found is None or not work else sum(found.macs.get(name, 0) for name in names) / work
