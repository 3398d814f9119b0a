"""Searching: everything about a result that is decided by running the quantized model on samples, in one place."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import count

from zeropoint.algorithms.context import Bench, Layers
from zeropoint.algorithms.norm_mapping import proven_carriers
from zeropoint.algorithms.shared_inputs import same_inputs
from zeropoint.calibration.profile import Profile
from zeropoint.data.batches import Batches
from zeropoint.graph.norm_mapping import carriers
from zeropoint.layers.quantized_layer import QuantizedLayer
from zeropoint.layers.result import Decisions
from zeropoint.metrics.sqnr import finite
from zeropoint.model.source import ProgramSource, Source
from zeropoint.schema.presets import pieces_of
from zeropoint.schema.recipe import Recipe
from zeropoint.search.checkpoint import KeptSearch
from zeropoint.search.target import Goal, Search, reach
from zeropoint.search.trial import Improved, begin, improve
from zeropoint.simulation.measure import Judge
from zeropoint.simulation.sensitivity import Sensitivity, predicted_db, probe

Drop = Callable[[Layers], float]
Told = Callable[[int], None]
"""Called with how many pieces were tried."""


@dataclass(frozen=True)
class Material:
    """What there is to search with: samples that calibrated, samples that were kept out, and what calibration saw."""

    calibration: Batches
    gate: Batches
    profile: Profile | None
    drop_of: Drop | None = None
    """What a target's metric loses with such layers."""


def search(
    source: Source, recipe: Recipe, material: Material, layers: list[QuantizedLayer], *, kept: KeptSearch, told: Told
) -> tuple[list[QuantizedLayer], Decisions]:
    """The layers that come out, in their order, and how that was decided. It goes on from what was `kept`."""
    bench, gate, pieces = _bench(source, recipe, material), Judge(source, material.gate), pieces_of(recipe)
    everything, target = {layer.layer.name: layer for layer in layers}, None
    done, now = kept.found() or (0, begin(gate, everything))
    tried = count(done + 1)

    def step(now: Improved) -> None:
        number = next(tried)
        kept.keep(number, now)
        told(number)

    if recipe.target is not None:
        goal = Goal(recipe.target, source, material.drop_of)
        now, target = reach(Search(bench, gate, goal, pieces[done:]), now, everything, step)
    else:
        now = improve(bench, gate, now, pieces[done:], step)
    found = probe(source, now.layers, material.calibration) if recipe.sensitivity else None
    decisions = Decisions(
        algorithms=list(now.steps),
        gate_samples=material.gate.count,
        gate_db=finite(now.noise.db),
        sensitivity={} if found is None else _alone(found),
        target=target,
    )
    return [now.layers[one.layer.name] for one in layers if one.layer.name in now.layers], decisions


def _bench(source: Source, recipe: Recipe, material: Material) -> Bench:
    statistics = {} if material.profile is None else material.profile.layers
    first = next(iter(material.calibration))
    sharing = same_inputs(source, first)
    norms = carriers(source) if isinstance(source, ProgramSource) else proven_carriers(source, first)
    return Bench(source, material.calibration, statistics, sharing, norms, products=_has_room(source, recipe))


def _has_room(source: Source, recipe: Recipe) -> bool:
    """Whether formats have a place for a product in front of a layer, at a price that is worth it: where convolutions
    hand integers on (`needs_outputs`), one reader in float costs more than half of the speed."""
    return not source.fixed and not (recipe.needs_outputs and any(layer.outlet for layer in source.layers))


def _alone(found: Sensitivity) -> Mapping[str, float]:
    """By layer, the SQNR in dB that the whole model would have if it alone were quantized; without those that make no
    noise."""
    return {name: predicted_db(found.signal, noise) for name, noise in found.noise.items() if noise > 0 < found.signal}
