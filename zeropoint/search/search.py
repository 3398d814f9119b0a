"""Search: every decision that requires running the quantized model on samples."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import count

from zeropoint.algorithms.context import AlgorithmContext, Layers
from zeropoint.algorithms.norm_mapping import proven_norm_mappings
from zeropoint.algorithms.shared_inputs import same_inputs
from zeropoint.calibration.profile import Profile
from zeropoint.data.batches import Batches
from zeropoint.graph.norm_mapping import norm_mappings
from zeropoint.graph.producers import producers
from zeropoint.layers.quantized_layer import QuantizedLayer
from zeropoint.layers.result import Decisions
from zeropoint.metrics.sqnr import Noise, finite
from zeropoint.model.source import ProgramSource, Source
from zeropoint.schema.algorithms import AlgorithmSettings
from zeropoint.schema.presets import algorithms_of
from zeropoint.schema.recipe import Recipe
from zeropoint.search.checkpoint import KeptSearch
from zeropoint.search.exact_sums import with_exact_sums
from zeropoint.search.fallbacks import cast_fallbacks
from zeropoint.search.out_of_range import OutOfRange
from zeropoint.search.target import Search, reach_target
from zeropoint.search.target_check import TargetCheck
from zeropoint.search.trial import Candidate, baseline, try_algorithms
from zeropoint.search.wider_ranges import with_all_samples
from zeropoint.simulation.measure import Evaluator, MetricDrop

OnProgress = Callable[[int], None]
"""Called with the number of algorithms tried so far."""


@dataclass(frozen=True)
class Material:
    """The samples of a search, those for calibration and those for acceptance, and the calibration's profile."""

    calibration: Batches
    acceptance: Batches
    profile: Profile | None
    metric_drop: MetricDrop | None = None
    """Returns how much lower the target's metric is with the given layers."""
    evaluation: Batches | None = None
    """Samples that neither calibrate nor choose anything; None: there are none."""


def search(
    source: Source,
    recipe: Recipe,
    material: Material,
    layers: list[QuantizedLayer],
    *,
    kept: KeptSearch,
    report: OnProgress,
) -> tuple[list[QuantizedLayer], Decisions]:
    """Return the resulting layers, in their order, and the decisions made. The search continues from `kept`."""
    context, acceptance, algorithms = (
        context_of(source, recipe, material),
        Evaluator(source, material.acceptance),
        algorithms_of(recipe),
    )
    everything, target = {layer.layer.name: layer for layer in layers}, None
    done, candidate = kept.found() or (0, baseline(acceptance, everything))
    tried = count(done + 1)

    def step(candidate: Candidate) -> None:
        number = next(tried)
        kept.keep(number, candidate)
        report(number)

    if recipe.target is not None:
        wanted = _for_target(recipe, material, context, acceptance, algorithms[done:])
        wanted = replace(wanted, widens=recipe.mode == "quantize")
        candidate, target = reach_target(wanted, candidate, everything, step)
    else:
        candidate = try_algorithms(context, acceptance, candidate, algorithms[done:], step)
        # what follows is kept nowhere: it takes little time
        candidate = cast_fallbacks(context, acceptance, recipe, candidate)
        if any(step.kept for step in candidate.steps):
            candidate = with_all_samples(context, acceptance, material.acceptance, candidate)
    decisions = Decisions(
        algorithms=list(candidate.steps),
        acceptance_samples=material.acceptance.count,
        acceptance_db=finite(candidate.noise.db),
        target=target,
    )
    return [candidate.layers[layer.layer.name] for layer in layers if layer.layer.name in candidate.layers], decisions


def _for_target(
    recipe: Recipe,
    material: Material,
    context: AlgorithmContext,
    acceptance: Evaluator,
    algorithms: Sequence[AlgorithmSettings],
) -> Search:
    """Return the inputs of the search for a target."""
    source, evaluation, asked = context.source, material.evaluation, recipe.target
    assert asked is not None
    fresh = (0 if evaluation is None else evaluation.count) or acceptance.samples
    ranges = OutOfRange.on(source, material.calibration) if asked.min_sqnr_db is not None else None
    check = TargetCheck(asked, source, acceptance, fresh, material.metric_drop, out_of_range=ranges)
    if evaluation is None or asked.min_sqnr_db is None:
        return Search(context, acceptance, check, algorithms)
    measure = Evaluator(source, evaluation)

    def evaluate(layers: Layers) -> Noise:
        if recipe.target_isa == "any":
            layers, _ = with_exact_sums(context, acceptance, layers)
        return measure.noise(layers.values())

    return Search(context, acceptance, check, algorithms, evaluate)


def context_of(source: Source, recipe: Recipe, material: Material) -> AlgorithmContext:
    """Return what algorithms need to know, from one run of the first calibration batch."""
    statistics = {} if material.profile is None else material.profile.layers
    first = next(iter(material.calibration))
    sharing = same_inputs(source, first)
    norms = norm_mappings(source) if isinstance(source, ProgramSource) else proven_norm_mappings(source, first)
    before = {name: p.name for name, p in producers(source).items()} if isinstance(source, ProgramSource) else {}
    return AlgorithmContext(
        source, material.calibration, statistics, sharing, norms, before, products=_has_room(source, recipe)
    )


def _has_room(source: Source, recipe: Recipe) -> bool:
    """Return whether formats can multiply a layer's input at run time without losing too much speed.

    Where convolutions pass integers to each other (`needs_outputs`), one float reader costs more than half the speed.
    """
    return not source.fixed and not (recipe.needs_outputs and any(layer.fused_output for layer in source.layers))
