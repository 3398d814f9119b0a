"""Search for a target: try algorithms until it is met, then leave layers in float, as cheaply as can be found.

min_sqnr_db, max_drop   algorithms in their order until the target is met; if they aren't enough, sets of float layers
                        (`float_layers`), each with its biases corrected again and measured; the result is the cheapest
                        of those that meet the target
                        ranges end further out first if values outside them may cost too much (`out_of_range`)
max_bytes               all algorithms; then the layers in float that remove most noise within the bound

A set is chosen by the acceptance samples alone. If the result then misses an SQNR on the evaluation samples, the search
continues once: its bound is higher by what was missing, and what meets it must hold on the evaluation samples too. If
no set that was tried meets the target, the closest
one is the result, and the report says so.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from zeropoint.algorithms.bias_correction import correct_biases
from zeropoint.algorithms.context import AlgorithmContext, Layers, left_in_float, with_unshared_weight
from zeropoint.layers.stored_tensors import stored_bytes
from zeropoint.metrics.sqnr import finite
from zeropoint.schema.algorithms import AlgorithmSettings, BiasCorrection
from zeropoint.schema.decisions import TargetReport
from zeropoint.search.float_layers import FloatLayers, Tried, next_set
from zeropoint.search.out_of_range import HEADROOMS
from zeropoint.search.target_check import Evaluate, Standing, TargetCheck, Trial
from zeropoint.search.trial import Candidate, OnCandidate, try_algorithms
from zeropoint.simulation.measure import Evaluator
from zeropoint.simulation.sensitivity import Sensitivity, probe

TRIALS = 12
"""Sets of float layers to measure for one bound: so many, and the logarithm to base 2 of the number of layers."""
UNKNOWN_STEP = 4.0
"""A metric's drop says nothing about noise: until it holds, the noise is divided by so much from trial to trial."""


@dataclass(frozen=True)
class Search:
    """The inputs of a search for a target."""

    context: AlgorithmContext
    acceptance: Evaluator
    target_check: TargetCheck
    algorithms: Sequence[AlgorithmSettings]
    evaluate: Evaluate | None = None
    """Measures the result on samples that chose nothing; None: there are none, or the target is not an SQNR."""
    widens: bool = True
    """Whether ranges may end further out; a plan as a recipe has no word for it."""


@dataclass(frozen=True)
class Found:
    """What a search came to: all trials, the one that is chosen, the probe if it ran, and algorithms not tried."""

    trials: list[Trial]
    chosen: Trial
    sensitivity: Sensitivity | None = None
    algorithms: Sequence[AlgorithmSettings] = ()


def reach_target(
    search: Search, candidate: Candidate, everything: Layers, step: OnCandidate
) -> tuple[Candidate, TargetReport]:
    """Return the candidate that meets the target, or the closest one. `everything`: the layers before the search."""
    check = search.target_check
    find = _cheapest if check.bytes_asked is None else _within_bytes
    found = find(search, [check.trial(candidate)], step)
    short = _missing_db(search, found)
    if short > 0:
        check = replace(check, evaluate=search.evaluate, raised_db=short)
        again = replace(search, target_check=check, algorithms=found.algorithms)
        found = _cheapest(again, [check.evaluated(trial) for trial in found.trials], step)
    chosen = found.chosen
    in_float = [name for name in everything if name not in chosen.candidate.layers]
    return chosen.candidate, check.report(
        chosen,
        check.standings(found.trials)[found.trials.index(chosen)],
        share=_share(found.sensitivity, in_float) if in_float else 0.0,
        in_float=len(in_float),
        trials=len(found.trials),
    )


def _tried_algorithms(search: Search, trials: list[Trial], step: OnCandidate, *, all_of_them: bool) -> Found:
    """Add a trial for each algorithm that changes the last candidate without float layers, until the target is met.

    Ranges end further out first where that leaves less noise in all: noise of the few values outside of them would
    decide about algorithms.
    """
    check, base = search.target_check, [trial for trial in trials if not trial.in_float][-1]
    judged: Layers | None = None
    for number, settings in enumerate(search.algorithms):
        if not all_of_them:
            if base.candidate.layers is not judged:
                trials, base = _with_headroom(search, trials, base)
            judged = base.candidate.layers
            if check.standings(trials)[trials.index(base)].met:
                return Found(trials, base, algorithms=search.algorithms[number:])
        later = search.algorithms[number + 1 :]
        candidate = try_algorithms(
            search.context, search.acceptance, base.candidate, [settings], step, followed_by=later
        )
        if candidate.layers is base.candidate.layers:
            place, base = trials.index(base), replace(base, candidate=candidate)
            trials = [*trials[:place], base, *trials[place + 1 :]]
        else:
            base = check.trial(candidate)
            trials = [*trials, base]
    return Found(trials, base)


def _with_headroom(search: Search, trials: list[Trial], base: Trial) -> tuple[list[Trial], Trial]:
    """Return the trials and the base with wider ranges, if that leaves less noise in all; else what was given.

    A target that is met as it is stays so.
    """
    check = search.target_check
    if not search.widens or check.out_of_range is None or check.standings(trials)[trials.index(base)].met:
        return trials, base
    options = [base]
    for headroom in HEADROOMS:
        layers = check.out_of_range.widened(base.candidate.layers, headroom)
        noise = search.acceptance.noise(layers.values())
        options.append(check.trial(replace(base.candidate, layers=layers, noise=noise)))
    best = min(options, key=lambda trial: _in_all(check, trial))
    return (trials, base) if best is base else ([*trials, best], best)


def _in_all(check: TargetCheck, trial: Trial) -> float:
    """Return the noise as a share of the signal, with what values outside the ranges may add."""
    noise, outside = trial.candidate.noise, trial.outside or check.outside(trial.candidate)
    total = noise.noise / noise.signal + outside if noise.signal > 0 else math.inf
    return total if math.isfinite(total) else math.inf


def _cheapest(search: Search, trials: list[Trial], step: OnCandidate) -> Found:
    """Try algorithms, then sets of float layers behind them, and choose the cheapest that is enough.

    Trials before the last one without float layers stand for earlier algorithms; they are not chosen from.
    """
    check, found = search.target_check, _tried_algorithms(search, trials, step, all_of_them=False)
    trials, base = _with_headroom(search, found.trials, found.chosen)
    first = trials.index(base)
    if check.standings(trials)[first].met:
        return replace(found, trials=trials, chosen=base)
    outside = _in_all(check, base) - base.candidate.noise.noise / max(base.candidate.noise.signal, 1e-300)
    sensitivity = _probed(search, base.candidate)
    if sensitivity is None:
        return found
    layers = FloatLayers.of(sensitivity, _extra_bytes(base.candidate, sensitivity), len(base.candidate.layers))
    for _ in range(TRIALS + math.ceil(math.log2(max(len(layers.noise), 1)))):
        names = next_set(layers, _measured(check, trials, first))
        if names is None:
            break
        trials = [*trials, check.trial(_without(search, base.candidate, names), names, outside)]
    pairs = list(zip(trials, check.standings(trials), strict=True))[first:]
    met = [trial for trial, standing in pairs if standing.met]
    chosen = (
        min(met, key=lambda trial: (layers.cost(trial.in_float), trial.candidate.noise.noise))
        if met
        else min(trials[first:], key=_noise)
    )
    return Found(trials, chosen, sensitivity)


def _missing_db(search: Search, found: Found) -> float:
    """Return by how many dB a target that was met is missed on the evaluation samples; 0 where it holds."""
    asked = search.target_check.sqnr_db
    standing = search.target_check.standings(found.trials)[found.trials.index(found.chosen)]
    if search.evaluate is None or asked is None or not standing.met:
        return 0.0
    db = finite(search.evaluate(found.chosen.candidate.layers).db)
    return 0.0 if db is None else max(asked - db, 0.0)


def _measured(check: TargetCheck, trials: Sequence[Trial], first: int) -> list[Tried]:
    """Return what is known about sets of float layers: those from the trial `first` on."""
    standings = check.standings(trials)
    pairs = list(zip(trials, standings, strict=True))[first:]
    if check.sqnr_db is None:
        return _by_metric(pairs)
    margins = [standing.margin for _, standing in pairs if standing.margin is not None]
    usual = margins[-1] if margins else 0.0
    return [
        Tried(trial.in_float, trial.candidate.noise.noise, check.allowed(trial, standing, usual), standing.met)
        for trial, standing in pairs
    ]


def _by_metric(pairs: Sequence[tuple[Trial, Standing]]) -> list[Tried]:
    """Return the sets with the noise that is taken to be allowed: between the least that missed, and what met."""
    noise = [(trial.candidate.noise.noise, standing.met) for trial, standing in pairs]
    missed = min((energy for energy, met in noise if not met and math.isfinite(energy)), default=0.0)
    most = max((energy for energy, met in noise if met), default=None)
    allowed = missed / UNKNOWN_STEP if most is None else math.sqrt(max(most, missed) * most)
    return [Tried(trial.in_float, trial.candidate.noise.noise, allowed, standing.met) for trial, standing in pairs]


def _probed(search: Search, candidate: Candidate) -> Sensitivity | None:
    """Return the noise of each layer that shares its weight with no other; None when there is no gradient."""
    return probe(search.context.source, with_unshared_weight(candidate.layers), search.context.calibration)


def _extra_bytes(candidate: Candidate, sensitivity: Sensitivity) -> dict[str, int]:
    """Return how many more bytes each probed layer takes in float, at least 1."""
    layers = {name: candidate.layers[name] for name in sensitivity.noise if name in candidate.layers}
    return {name: max(layer.layer.bytes - stored_bytes(layer), 1) for name, layer in layers.items()}


def _without(search: Search, candidate: Candidate, names: frozenset[str]) -> Candidate:
    """Return the candidate with these layers in float, and biases corrected again if any was corrected.

    A correction also compensates errors of layers before it, which may be in float now.
    """
    layers = left_in_float(search.context, candidate.layers, names)
    if any(layer.bias is not None for layer in layers.values()):
        layers = {**layers, **correct_biases(BiasCorrection(), search.context, layers)}
    return replace(candidate, layers=layers, noise=search.acceptance.noise(layers.values()), tried=())


def _within_bytes(search: Search, trials: list[Trial], step: OnCandidate) -> Found:
    """Try all algorithms, then sets of float layers that fit, chosen by the noise that they remove for their bytes."""
    check, found = search.target_check, _tried_algorithms(search, trials, step, all_of_them=True)
    base = found.chosen
    sensitivity = _probed(search, base.candidate)
    if sensitivity is None:
        return found
    extra = _extra_bytes(base.candidate, sensitivity)
    room = (check.bytes_asked or 0) - check.bytes_of(base.candidate.layers)
    sets = dict.fromkeys(chosen(sensitivity, extra, room) for chosen in (_most_noise, _greedy))
    fitting = [check.trial(_without(search, base.candidate, names), names) for names in sets if names]
    met = [trial for trial, standing in zip(fitting, check.standings(fitting), strict=True) if standing.met]
    return Found([*found.trials, *fitting], min([base, *met], key=_noise), sensitivity)


def _most_noise(sensitivity: Sensitivity, extra: dict[str, int], room: int) -> frozenset[str]:
    """Return the layers with the most noise that add at most `room` bytes, by halving the noise they leave."""
    size = max(sum(extra.values()), 1)
    layers = FloatLayers(
        {name: sensitivity.noise[name] for name in extra}, {name: extra[name] / size for name in extra}
    )
    fits, low, high = frozenset[str](), 0.0, sum(layers.noise.values())
    for _ in range(20):
        middle = (low + high) / 2
        names = layers.cheapest(middle)
        if sum(extra[name] for name in names) <= room:
            fits, high = names, middle
        else:
            low = middle
    return fits


def _greedy(sensitivity: Sensitivity, extra: dict[str, int], room: int) -> frozenset[str]:
    """Return layers in order of noise per extra byte, each that still fits."""
    chosen = set[str]()
    for name in sorted(extra, key=lambda name: -sensitivity.noise[name] / extra[name]):
        if extra[name] <= room and len(chosen) + 1 < len(extra):
            chosen.add(name)
            room -= extra[name]
    return frozenset(chosen)


def _noise(trial: Trial) -> float:
    energy = trial.candidate.noise.noise
    return energy if math.isfinite(energy) else math.inf


def _share(sensitivity: Sensitivity | None, names: Sequence[str]) -> float | None:
    """Return these layers' share of the multiply-accumulates of all quantizable layers."""
    work = 0 if sensitivity is None else sum(sensitivity.macs.values())
    return None if sensitivity is None or not work else sum(sensitivity.macs.get(name, 0) for name in names) / work
