"""The engine: calibrate, quantize, search. It sees only a source's layers, and no formats."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from zeropoint.calibration.collect import calibrate
from zeropoint.calibration.degenerate import constant_samples, degenerate_ranges, fixed_inputs, too_few_samples
from zeropoint.calibration.neighbours import neighbours_alike
from zeropoint.calibration.profile import Profile
from zeropoint.calibration.ranges import static_inputs, static_outputs, thin_spots
from zeropoint.data.batches import Batches
from zeropoint.data.dataset import first_of
from zeropoint.engine.plan import QuantizationPlan, without_idle
from zeropoint.files.checkpoints import NO_CHECKPOINTS, Checkpoints
from zeropoint.graph.preparing import prepared
from zeropoint.layers.checkpoints import finished_layers
from zeropoint.layers.quantize import quantize_layer, spill_to_disk
from zeropoint.layers.quantized_layer import Activation, QuantizedLayer
from zeropoint.layers.result import Decisions, Quantized
from zeropoint.layers.selection import Choice, fallback_notes, is_targeted
from zeropoint.model.source import ProgramSource, Source
from zeropoint.schema.job import PhaseCallback, ProgressCallback
from zeropoint.schema.presets import algorithms_of
from zeropoint.schema.recipe import Recipe
from zeropoint.schema.report import NOT_CALIBRATED, CalibrationReport, ReportWarning, SkippedLayer
from zeropoint.schema.versions import versions
from zeropoint.search.checkpoint import KeptSearch
from zeropoint.search.exact_sums import with_exact_sums
from zeropoint.search.integer_outputs import with_integer_outputs
from zeropoint.search.search import Material, context_of, search
from zeropoint.search.target_check import few_samples
from zeropoint.simulation.exclusion import layer_costs
from zeropoint.simulation.measure import Evaluator, MetricDrop

MOST_SAMPLES_TO_COMPARE = 32
"""Calibration samples on which two results are compared, where none decide."""


@dataclass(frozen=True)
class Resources:
    """What a run of the engine uses besides the model, the recipe and samples."""

    checkpoints: Checkpoints = NO_CHECKPOINTS
    """Checkpoints of an earlier attempt, from which this one continues."""
    scratch: Path | None = None
    """A folder for the quantized values of layers whose float weights are in files too; None keeps them in memory."""
    metric_drop: MetricDrop | None = None
    """Returns how much lower the target's metric is with the given layers."""


def quantize_source(
    source: Source,
    recipe: Recipe,
    planned: QuantizationPlan,
    report: PhaseCallback,
    profile: Profile | None = None,
    *,
    resources: Resources = Resources(),
) -> Quantized:
    """Run the plan; a `profile` of these samples replaces the calibration pass.

    Raises InvalidSamples when calibration meets values that are not finite, InvalidProfile when the profile lacks a
    layer.
    """
    run = _run(source, recipe, planned, report, profile, resources=resources)
    if planned.undivided is not None and _changed_nothing(recipe, run.result):
        run = _on_all_samples(source, recipe, planned, run.result)
    return _with_costs(_with_warnings(_with_integer_outputs(_exact_everywhere(run))), run.planned.calibration)


@dataclass(frozen=True)
class _Run:
    """A plan that was run: the plan without layers that no sample reached, its result, and what calibration saw."""

    planned: QuantizationPlan
    result: Quantized
    profile: Profile | None
    activations: Mapping[str, Activation]
    outputs: Mapping[str, Activation]

    @property
    def deciding_samples(self) -> Batches | None:
        """The samples on which two results are compared; None: there are none."""
        calibration = self.planned.calibration
        few = None if calibration is None else first_of(calibration, MOST_SAMPLES_TO_COMPARE)
        return self.planned.acceptance or few


def _exact_everywhere(run: _Run) -> _Run:
    """Limit pairs of weights where static inputs are integers, unless the recipe names processors that need none."""
    result, calibration, samples = run.result, run.planned.calibration, run.deciding_samples
    if result.recipe.target_isa != "any" or calibration is None or samples is None or not run.activations:
        return run
    material = Material(calibration, samples, run.profile)
    context, before = context_of(result.source, result.recipe, material), {n.layer.name: n for n in result.layers}
    layers, step = with_exact_sums(context, Evaluator(result.source, samples), before)
    if step is None:
        return run
    decided = result.decisions
    decisions = replace(
        decided, pair_limits=step, acceptance_db=None if decided.acceptance_db is None else step.after_db
    )
    return replace(run, result=replace(result, layers=list(layers.values()), decisions=decisions))


def _with_integer_outputs(run: _Run) -> _Run:
    """Add the qparams of convolutions' results, for formats that write them as integers."""
    result, samples = run.result, run.deciding_samples
    if not isinstance(result.source, ProgramSource) or samples is None or not run.outputs:
        return run
    layers, report = with_integer_outputs(result.source, result.layers, run.outputs, samples)
    decisions = replace(result.decisions, integer_outputs=report)
    return replace(run, result=replace(result, layers=layers, decisions=decisions))


def _changed_nothing(recipe: Recipe, result: Quantized) -> bool:
    """Return whether algorithms were tried and none was kept; what a target asks for was measured, and stays."""
    steps = result.decisions.algorithms
    return recipe.target is None and bool(steps) and not any(step.kept for step in steps)


def _on_all_samples(source: Source, recipe: Recipe, planned: QuantizationPlan, result: Quantized) -> _Run:
    """Take the ranges of all samples, those that decided included: the result is what no algorithms would have given.

    Otherwise a recipe that tries algorithms in vain would be worse than one without, whose ranges come from a third
    more samples.
    """
    known = {layer.layer.name: layer for layer in result.layers}
    whole = replace(planned, calibration=planned.undivided, acceptance=None, known=known, undivided=None)
    again = _run(source, recipe, whole, lambda *_: None)  # the phase that is shown is over
    passes = result.calibration.passes + again.result.calibration.passes
    calibration = again.result.calibration.model_copy(update={"passes": passes})
    return replace(again, result=replace(again.result, calibration=calibration, decisions=result.decisions))


def _run(
    source: Source,
    recipe: Recipe,
    planned: QuantizationPlan,
    report: PhaseCallback,
    profile: Profile | None = None,
    *,
    resources: Resources = Resources(),
) -> _Run:
    """Run the plan as it is."""
    source = prepared(source, [choice.layer.name for choice in planned.choices])
    # 1. activations: one pass over the calibration samples
    watched = _watched(recipe, planned)
    if not watched or planned.calibration is None:
        profile = None
    elif profile is None:
        step, samples = partial(report, "calibrating"), planned.calibration
        step(0, len(samples))  # an error in the first batch belongs to this phase
        profile = calibrate(source, watched, recipe, samples, step, checkpoints=resources.checkpoints)
    if profile is not None and not profile.reused:
        planned = without_idle(planned, profile)
    static = [choice for choice in planned.choices if choice.activations is not None]
    activations = {} if profile is None else static_inputs(static, profile)
    outputs = static_outputs(static, profile) if profile is not None and recipe.needs_outputs else {}
    # 2. weights: layer by layer
    total = len(planned.choices) + (len(algorithms_of(recipe)) if planned.acceptance is not None else 0)

    def advance(done: int, _: int = 0) -> None:
        report("quantizing", done, total)

    layers = quantize_layers(planned, activations, advance, resources.checkpoints, resources.scratch)
    # 3. decisions that require running the quantized model
    decisions, quantized_layers = Decisions(), len(layers)
    if planned.acceptance is not None and planned.calibration is not None:
        material = Material(
            planned.calibration, planned.acceptance, profile, resources.metric_drop, planned.evaluation.independent
        )
        kept = KeptSearch(resources.checkpoints, layers)
        layers, decisions = search(
            source, recipe, material, layers, kept=kept, report=lambda tried: advance(quantized_layers + tried)
        )
    calibration = _calibration_report(profile, list(activations))
    skipped = [*planned.skipped, *_left_in_float(planned, layers)]
    result = Quantized(source, recipe, layers, skipped, calibration, versions(source.libraries), decisions)
    return _Run(planned, result, profile, activations, outputs)


def _with_warnings(run: _Run) -> Quantized:
    """Add what is wrong with the samples and with the ranges that stay; earlier ranges of the same run say nothing."""
    result = run.result
    found = _warnings(result.source, run.profile, run.planned, run.activations)
    return replace(
        result,
        warnings=(*found, *few_samples(result.decisions.target), *fallback_notes(result.recipe, result.layers)),
        neighbours_alike=_evaluates_neighbours(run.planned),
    )


def _with_costs(result: Quantized, calibration: Batches | None) -> Quantized:
    """Add what each layer costs by the probe."""
    if calibration is None:
        return result
    costs = layer_costs(result.source, result.layers, calibration, asked=result.recipe.sensitivity)
    return replace(result, decisions=replace(result.decisions, sensitivity=costs.alone, gains=costs.gain))


def _evaluates_neighbours(planned: QuantizationPlan) -> bool:
    """Return whether the samples that evaluate follow on those that calibrate, and resemble their neighbours."""
    held_out = planned.evaluation.source == "held_out"
    return held_out and planned.calibration is not None and neighbours_alike(planned.calibration)


def _warnings(
    source: Source, profile: Profile | None, planned: QuantizationPlan, activations: Mapping[str, Activation]
) -> tuple[ReportWarning, ...]:
    """Return what is wrong with the samples and with the static ranges that they give."""
    if profile is None or planned.calibration is None or not activations:
        return ()
    batches = planned.calibration

    def fixed(names: Collection[str]) -> set[str]:
        return fixed_inputs(source, next(iter(batches)), names)

    return (*too_few_samples(batches), *constant_samples(batches), *degenerate_ranges(profile, activations, fixed))


def _watched(recipe: Recipe, planned: QuantizationPlan) -> list[Choice]:
    """Return the layers whose inputs calibration observes: those with static inputs, and those that AWQ scales."""
    algorithms = algorithms_of(recipe)
    return [c for c in planned.choices if c.activations is not None or is_targeted(c.layer, algorithms, ("awq",))]


def _left_in_float(planned: QuantizationPlan, layers: Sequence[QuantizedLayer]) -> list[SkippedLayer]:
    """Return chosen layers that the search left in float."""
    quantized = {layer.layer.name for layer in layers}
    in_float = [choice.layer for choice in planned.choices if choice.layer.name not in quantized]
    return [SkippedLayer(name=layer.name, type=layer.type, reason="mixed_precision") for layer in in_float]


def quantize_layers(
    planned: QuantizationPlan,
    activations: Mapping[str, Activation],
    step: ProgressCallback,
    checkpoints: Checkpoints,
    scratch: Path | None = None,
) -> list[QuantizedLayer]:
    """Return the quantized layer of each choice, in their order; layers found in checkpoints are reused."""
    choices = planned.choices
    finished = finished_layers(checkpoints, choices)
    done, layers = len(finished.read()), []
    if done:
        step(done, len(choices))
    for number, choice in enumerate(choices):
        activation = activations.get(choice.layer.name)
        layer = finished.take(choice.layer.name)
        if layer is None and choice.layer.name in planned.known:
            layer = replace(planned.known[choice.layer.name], activation=activation)
        if layer is None:
            layer = quantize_layer(choice, activation)
            if choice.layer.stored is not None and scratch is not None:
                layer = spill_to_disk(layer, scratch / f"{number}.safetensors")
            layer.release()
            if layer.qparams is not None:
                finished.add(choice.layer.name, layer)
            done += 1
            step(done, len(choices))
        layers.append(layer)
    finished.close()
    return layers


def _calibration_report(profile: Profile | None, names: list[str]) -> CalibrationReport:
    if profile is None:
        return NOT_CALIBRATED
    return CalibrationReport(
        samples=profile.samples,
        batches=profile.batches,
        batch_size=profile.batch_size,
        passes=0 if profile.reused else 1,
        reused=profile.reused,
        warnings=thin_spots(profile, names),
    )
