"""Which layers to try in float next: a knapsack over the probe's noise, corrected by what was measured so far.

    cost(S) = ⅓ · Σ_S MACs / Σ MACs + ⅔ · Σ_S bytes added / Σ bytes added

S are the layers in float, "bytes added" what their float weights take beyond the quantized ones. Layers in float cost
time and size. Neither can be turned into the other, so each counts as a share of what all layers would cost: cost 1 is
the float model. Bytes count twice as much: a layer in float is larger wherever the model runs, and slower only where
int8 is faster. The cheapest of several sets is dominated by none of them, in MACs and bytes.

    predicted(S) = measured(T) · Σ_{l not in S} noise_l / Σ_{l not in T} noise_l,   T the measured set nearest to S

The probe's noise adds up only nearly, so that each measurement corrects the predictions around it. Once a set meets the
target, what is tried next is the set with the largest saving times its chance to meet the target, which is that of a
prediction with a normal error of `ERROR_DB`.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import torch

from zeropoint.simulation.sensitivity import Sensitivity

Names = frozenset[str]

WORK, BYTES = 1 / 3, 2 / 3
"""The weights of the share of multiply-accumulates and of the share of bytes in a cost."""
ERROR_DB = 1.0
"""Standard deviation of a prediction from a measured set nearby."""
LEAST_SAVING = 0.002
"""A try is worth it while its expected saving is at least this share of what all layers in float cost."""
FEW_LAYERS = 8
"""With so few layers all sets are considered."""
SWAPPED = 8
"""How many layers of a larger model are considered on either side of a swap."""
HOPELESS = 4.0
"""Of many layers, no set is tried that is predicted to be this much further from a target that none met."""
MOST_NOISE = 1e12
"""In place of noise that is infinite or no number."""
BUCKETS = 1000


@dataclass(frozen=True)
class Tried:
    """A set of float layers that was measured: its noise, the noise that the target allows, and whether it is met."""

    in_float: Names
    noise: float
    allowed: float
    met: bool


@dataclass(frozen=True)
class FloatLayers:
    """The layers that may stay in float: their noise as probed, and their costs, which add up to 1."""

    noise: Mapping[str, float]
    costs: Mapping[str, float]
    others: int = 0
    """How many further layers are quantized; without any, one of these must stay quantized."""

    @classmethod
    def of(cls, sensitivity: Sensitivity, extra_bytes: Mapping[str, int], quantized: int) -> "FloatLayers":
        """Return the probed layers; `extra_bytes` by layer, `quantized`: how many layers there are in all."""
        names = [name for name in sensitivity.noise if name in extra_bytes]
        work = max(sum(sensitivity.macs.get(name, 0) for name in names), 1)
        size = max(sum(extra_bytes[name] for name in names), 1)
        costs = {n: WORK * sensitivity.macs.get(n, 0) / work + BYTES * extra_bytes[n] / size for n in names}
        return cls({name: sensitivity.noise[name] for name in names}, costs, quantized - len(names))

    def cost(self, names: Iterable[str]) -> float:
        """Return what these layers cost in float."""
        return sum(self.costs[name] for name in names)

    def remaining(self, in_float: Names) -> float:
        """Return the probed noise of the layers that stay quantized."""
        return sum(noise for name, noise in self.noise.items() if name not in in_float)

    def cheapest(self, allowed: float) -> Names:
        """Return the cheapest set that leaves at most `allowed` of the probed noise, or else the largest set."""
        needed = sum(self.noise.values()) - allowed
        chosen = _knapsack(self.noise, self.costs, needed) if needed > 0 else set()
        for name in sorted(chosen, key=lambda name: -self.costs[name]):  # rounding in the knapsack may take too many
            if sum(self.noise[other] for other in chosen - {name}) >= needed:
                chosen.remove(name)
        if len(chosen) == len(self.noise) and not self.others:
            chosen.discard(min(chosen, key=lambda name: self.noise[name], default=""))
        return frozenset(chosen)


def next_set(layers: FloatLayers, tried: Sequence[Tried]) -> Names | None:
    """Return the set to measure next; None when nothing is worth it. `tried` begins with the empty set."""
    met = [attempt for attempt in tried if attempt.met]
    if not met:
        return _further(layers, tried)
    best = min(met, key=lambda attempt: layers.cost(attempt.in_float))
    known = {attempt.in_float for attempt in tried}
    options = {names for names in _cheaper(layers, best) if names not in known}
    saving = layers.cost(best.in_float)
    worth = {names: (saving - layers.cost(names)) * _chance(layers, tried, names) for names in options}
    chosen = max(worth, key=lambda names: (worth[names], sorted(names)), default=None)
    return chosen if chosen is not None and worth[chosen] >= LEAST_SAVING else None


def _further(layers: FloatLayers, tried: Sequence[Tried]) -> Names | None:
    """Return a set for a target that none met: the cheapest that is predicted to, else the closest by prediction."""
    known = {attempt.in_float for attempt in tried}
    last = min(tried, key=_distance)
    names = layers.cheapest(layers.remaining(last.in_float) / min(max(_distance(last), 1.0), MOST_NOISE))
    if names not in known:
        return names
    if layers.cheapest(0.0) not in known:
        return layers.cheapest(0.0)
    few = len(layers.noise) <= FEW_LAYERS
    options = {names for names in (_all_sets(layers) if few else _beside(layers, last)) if names not in known}
    distances = {names: _predicted(layers, tried, names) for names in options}
    chosen = min(distances, key=lambda names: (distances[names], sorted(names)), default=None)
    return chosen if chosen is not None and (few or distances[chosen] <= HOPELESS * _distance(last)) else None


def _distance(attempt: Tried) -> float:
    """Return the noise as a multiple of what is allowed."""
    return _energy(attempt) / attempt.allowed if attempt.allowed > 0 else math.inf


def _energy(attempt: Tried) -> float:
    return attempt.noise if math.isfinite(attempt.noise) else math.inf


def _beside(layers: FloatLayers, last: Tried) -> Iterator[Names]:
    """Yield sets with one layer more, and with one layer in place of another."""
    inside = sorted(last.in_float, key=lambda name: layers.noise[name])
    outside = sorted(set(layers.noise) - last.in_float, key=lambda name: -layers.noise[name])
    most = len(layers.noise) if layers.others else len(layers.noise) - 1
    for other in outside[:SWAPPED]:
        if len(inside) < most:
            yield last.in_float | {other}
        for name in inside[:SWAPPED]:
            yield last.in_float - {name} | {other}


def _cheaper(layers: FloatLayers, best: Tried) -> Iterator[Names]:
    """Yield sets that cost less than `best`: all of few layers, else without a layer, with another one, and so on."""
    cost = layers.cost(best.in_float)
    candidates = _all_sets(layers) if len(layers.noise) <= FEW_LAYERS else _neighbours(layers, best)
    return (names for names in candidates if layers.cost(names) < cost)


def _all_sets(layers: FloatLayers) -> Iterator[Names]:
    names = list(layers.noise)
    most = len(names) if layers.others else len(names) - 1
    return (frozenset(chosen) for size in range(most + 1) for chosen in combinations(names, size))


def _neighbours(layers: FloatLayers, best: Tried) -> Iterator[Names]:
    """Yield `best` without one layer, with one swapped, and the knapsack's sets for more and more noise."""
    inside = sorted(best.in_float, key=lambda name: -layers.costs[name])
    outside = sorted(
        set(layers.noise) - best.in_float, key=lambda name: -layers.noise[name] / max(layers.costs[name], 1e-12)
    )
    for name in inside:
        yield best.in_float - {name}
    for name in inside[:SWAPPED]:
        for other in outside[:SWAPPED]:
            yield best.in_float - {name} | {other}
    remaining = layers.remaining(best.in_float)
    exact = best.allowed / best.noise if best.noise > 0 else 1.0
    for factor in (exact, 1.0, *(1.25**power for power in range(1, 9))):
        yield layers.cheapest(remaining * factor)


def _chance(layers: FloatLayers, tried: Sequence[Tried], names: Names) -> float:
    """Return the predicted probability that a set meets the target."""
    predicted = _predicted(layers, tried, names)
    return 0.5 * math.erfc(10 * math.log10(max(predicted, 1e-300)) / ERROR_DB / math.sqrt(2))


def _predicted(layers: FloatLayers, tried: Sequence[Tried], names: Names) -> float:
    """Return the noise of a set as a multiple of what is allowed, predicted from the nearest set that was measured."""
    usable = [attempt for attempt in tried if 0 < _distance(attempt) < math.inf] or list(tried)
    nearest = min(usable, key=lambda attempt: sum(layers.noise[name] for name in attempt.in_float ^ names))
    remaining = layers.remaining(nearest.in_float)
    return min(_distance(nearest), MOST_NOISE) * (layers.remaining(names) / remaining if remaining > 0 else 1.0)


def _knapsack(noise: Mapping[str, float], costs: Mapping[str, float], needed: float) -> set[str]:
    """Return the cheapest layers whose noise adds up to `needed`; all of them where they don't.

    least[k] is the least cost of noise k / buckets · needed, layer after layer (dynamic programming). Noise is rounded
    down to whole buckets, so that the result has enough of it.
    """
    names = list(noise)
    buckets = BUCKETS + 10 * len(names)
    weights = [min(buckets, math.floor(noise[name] / needed * buckets)) for name in names]
    if sum(weights) < buckets:
        return set(names)
    least = torch.full((buckets + 1,), math.inf, dtype=torch.float64)
    least[0] = 0.0
    taken = []
    for name, weight in zip(names, weights, strict=True):
        before = least[(torch.arange(buckets + 1) - weight).clamp(min=0)] + costs[name]
        taken.append(before < least)
        least = torch.minimum(least, before)
    chosen, place = set(), buckets
    for position in range(len(names) - 1, -1, -1):
        if bool(taken[position][place]):
            chosen.add(names[position])
            place = max(place - weights[position], 0)
    return chosen
