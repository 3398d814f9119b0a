"""A target: algorithms are tried until it is met, and then layers stay in float, as few as it takes.

min_sqnr_db, max_drop   pieces in their order until the target is met; if none of it is enough, the shortest list of
                        layers in float that meets it, in the order of the probe's noise for each multiply-accumulate
max_bytes               all pieces; then layers go back to float by their noise for each byte that costs, while it fits

Where the target can't be met, what came nearest is the result, and the report says so.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from quantization.algorithm_settings import AlgorithmSettings, BiasCorrection
from quantization.algorithms.bench import Bench, Layers, untied
from quantization.algorithms.mixed_precision import by_bargain
from quantization.goals import Goal
from quantization.improving import Improved, Step, improve
from quantization.judge import Judge
from quantization.probe import Sensitivity, probe
from quantization.report import TargetReport


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
