"""Sets of float layers: what the search answers is dominated by nothing that it measured, nor by a hand search."""

import random
from itertools import combinations

import pytest

from zeropoint.search.float_layers import FloatLayers, Names, Tried, next_set


def layers_of(count: int, seed: int, others: int = 0) -> FloatLayers:
    """Layers whose noise, work and bytes have nothing to do with each other."""
    draw = random.Random(seed)
    noise = {f"layer{at}": draw.lognormvariate(0, 1.5) for at in range(count)}
    weights = {name: draw.lognormvariate(0, 2) for name in noise}
    return FloatLayers(noise, {name: value / sum(weights.values()) for name, value in weights.items()}, others)


def true_noise(layers: FloatLayers, names: Names, seed: int) -> float:
    """The probe is off by up to 30 % for each layer, as it is in truth."""
    draw = random.Random(seed)
    off = {name: draw.uniform(0.7, 1.3) for name in sorted(layers.noise)}
    return sum(noise * off[name] for name, noise in layers.noise.items() if name not in names)


def searched(layers: FloatLayers, allowed: float, seed: int, trials: int) -> list[Tried]:
    tried = [Tried(frozenset(), energy := true_noise(layers, frozenset(), seed), allowed, energy <= allowed)]
    while len(tried) <= trials and (names := next_set(layers, tried)) is not None:
        energy = true_noise(layers, names, seed)
        tried.append(Tried(names, energy, allowed, energy <= allowed))
    return tried


def by_hand(layers: FloatLayers, allowed: float, seed: int) -> float:
    """The least cost of all sets that meet the target."""
    sets = [frozenset(s) for size in range(len(layers.noise)) for s in combinations(layers.noise, size)]
    return min(layers.cost(names) for names in sets if true_noise(layers, names, seed) <= allowed)


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("count", [3, 4, 5])
def test_few_layers_get_what_a_hand_search_finds(count: int, seed: int) -> None:
    layers = layers_of(count, seed)
    allowed = true_noise(layers, frozenset(), seed) * random.Random(seed).uniform(0.1, 0.9)
    allowed = max(allowed, min(true_noise(layers, frozenset(layers.noise) - {name}, seed) for name in layers.noise))
    tried = searched(layers, allowed, seed, 14)
    found = min(layers.cost(attempt.in_float) for attempt in tried if attempt.met)
    assert found <= by_hand(layers, allowed, seed) + 0.03


@pytest.mark.parametrize("seed", range(6))
def test_many_layers_come_close_within_the_trials(seed: int) -> None:
    layers = layers_of(14, seed)
    allowed = true_noise(layers, frozenset(), seed) / 10
    tried = searched(layers, allowed, seed, 16)
    found = min(layers.cost(attempt.in_float) for attempt in tried if attempt.met)
    assert found <= by_hand(layers, allowed, seed) + 0.08


def test_a_layer_with_much_noise_that_costs_much_is_passed_over() -> None:
    """Prefixes of one order would hold it."""
    layers = FloatLayers({"big": 50.0, "a": 30.0, "b": 25.0}, {"big": 0.9, "a": 0.05, "b": 0.05})
    assert layers.cheapest(51.0) == {"a", "b"}


@pytest.mark.parametrize("seed", range(8))
def test_the_knapsack_leaves_out_what_is_not_needed(seed: int) -> None:
    layers = layers_of(40, seed, others=1)
    allowed = sum(layers.noise.values()) / 5
    chosen = layers.cheapest(allowed)
    assert layers.remaining(chosen) <= allowed
    assert all(layers.remaining(chosen - {name}) > allowed for name in chosen)


def test_one_layer_stays_quantized_unless_others_do() -> None:
    assert len(layers_of(5, 0).cheapest(0.0)) == 4
    assert len(layers_of(5, 0, others=1).cheapest(0.0)) == 5


def test_what_no_set_meets_is_searched_on_for_the_least_noise() -> None:
    """The probe is wrong about which layer is the quietest: all sets but one are compared."""
    layers = FloatLayers({"a": 1.8, "b": 1.7, "c": 0.9, "d": 0.8}, dict.fromkeys("abcd", 0.25))
    true = {"a": 0.3, "b": 3.0, "c": 3.0, "d": 3.0}
    tried = [Tried(frozenset(), 9.3, 0.01, met=False)]
    while len(tried) <= 14 and (names := next_set(layers, tried)) is not None:
        tried.append(Tried(names, sum(true[name] for name in true if name not in names), 0.01, met=False))
    assert min(tried, key=lambda attempt: attempt.noise).in_float == {"b", "c", "d"}
    assert len({attempt.in_float for attempt in tried}) == len(tried)


def test_noise_that_is_no_number_ends_nothing() -> None:
    layers = layers_of(4, 0)
    tried = [Tried(frozenset(), float("nan"), 1.0, met=False)]
    assert next_set(layers, tried)
