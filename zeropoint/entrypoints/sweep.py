"""A sweep: several recipes on one model, calibrated once, each measured in simulation; no model is written.

Recipes that differ only in what no row shows (checks, formats) are measured once. An error in a recipe is reported in
its row, and the other recipes are still measured.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic

import torch

from zeropoint.calibration.collect import Wanted, collect, wanted_by
from zeropoint.calibration.profile import Profile
from zeropoint.calibration.ranges import thin_spots
from zeropoint.data.batches import Samples
from zeropoint.data.dataset import Dataset
from zeropoint.engine.plan import EvaluationSamples, QuantizationPlan, choose_evaluation, plan
from zeropoint.engine.quantize import Resources, quantize_source
from zeropoint.entrypoints.clock import Clock
from zeropoint.entrypoints.failures import model_errors
from zeropoint.entrypoints.steps import open_samples
from zeropoint.errors import InvalidSamples, QuantizationError
from zeropoint.files.checkpoints import NO_CHECKPOINTS, Checkpoints, State, Tensors
from zeropoint.layers.quantized_layer import QuantizedLayer
from zeropoint.layers.selection import require_fit
from zeropoint.metrics.sqnr import Noise, finite
from zeropoint.model.source import Source
from zeropoint.schema.decisions import TargetReport
from zeropoint.schema.defaults import complete
from zeropoint.schema.job import CHECKPOINT_FOLDER, OUT_FOLDER, SWEEP_FILE, JobSpec, Phase
from zeropoint.schema.recipe import Recipe, ValidationSettings, WeightSettings
from zeropoint.schema.report import NOT_CALIBRATED, CalibrationReport
from zeropoint.schema.sweep import SweepEntry, SweepError, SweepReport, SweepRow, pareto
from zeropoint.schema.versions import versions
from zeropoint.simulation.measure import Evaluator
from zeropoint.sources import open_source
from zeropoint.validation.latency import Stopwatch, require_latency

MAX_SAMPLES = 32
"""Most samples to measure on without an evaluation dataset, since every row runs all of them."""
CHECKPOINT = "sweep-rows"
UNNAMED = "-"
"""A row's name until it gets that of its entry: several entries may share one row's settings."""


def run_sweep(folder: Path, spec: JobSpec, clock: Clock) -> None:
    """Do the sweep of a folder, and write its table. Raises QuantizationError when no row could be made."""
    (folder / OUT_FOLDER).mkdir(exist_ok=True)
    clock.report("loading", 0, 1)
    folds = any(entry.recipe.folds for entry in spec.sweep)
    merges = any(entry.recipe.merge_lora for entry in spec.sweep)
    source = open_source(folder / spec.model, spec.format, spec.device, fold=folds, merge_lora=merges)
    names = [layer.name for layer in source.layers]
    entries = [e.model_copy(update={"recipe": complete(e.recipe, spec.format, names)}) for e in spec.sweep]
    batch_size = entries[0].recipe.calibration.batch_size
    if spec.dataset is None:
        raise InvalidSamples("dataset_required", "A sweep measures, and has no dataset.", "Give the job a dataset.")
    samples, evaluation = open_samples(folder, spec, source, batch_size)
    assert samples is not None  # checked above
    checkpoints = Checkpoints(folder / CHECKPOINT_FOLDER, spec.checkpoint_key, spec.checkpoint_seconds)
    with TemporaryDirectory(dir=folder) as scratch:
        sweep = Sweep(source, samples, evaluation, clock, Path(scratch), checkpoints)
        for entry in entries:
            require_fit(entry.recipe, spec.format)
        with model_errors(source, lambda: clock.phase):
            report = sweep.compare(entries, latency=spec.latency)
    (folder / OUT_FOLDER / SWEEP_FILE).write_text(report.model_dump_json(indent=1))


Weights = Mapping[tuple[str, WeightSettings], QuantizedLayer]
"""Quantized weights, by layer and settings."""


@dataclass(frozen=True)
class Task:
    """One of the distinct recipes, and its plan."""

    recipe: Recipe
    plan: QuantizationPlan

    @property
    def weights(self) -> Iterator[tuple[str, WeightSettings]]:
        """Each layer to quantize, with the settings of its weight."""
        return ((choice.layer.name, choice.weights) for choice in self.plan.choices)

    def knowing(self, known: Weights) -> "Task":
        """Return the task with the `known` weights that it can reuse."""
        return replace(
            self, plan=replace(self.plan, known={key[0]: known[key] for key in self.weights if key in known})
        )


@dataclass(frozen=True)
class Tools:
    """The measuring tools that all rows share."""

    measure: Evaluator
    profile: Profile | None
    stopwatch: Stopwatch | None


@dataclass(frozen=True)
class Sweep:
    """The model and the samples on which recipes are compared."""

    source: Source
    samples: Dataset
    evaluation: Dataset | None
    clock: Clock
    scratch: Path
    checkpoints: Checkpoints = NO_CHECKPOINTS

    def compare(self, entries: Sequence[SweepEntry], *, latency: bool = False) -> SweepReport:
        """Return a table with a row for each entry. Raises QuantizationError for an error that affects all of them."""
        # 1. plan
        if latency:
            require_latency(self.source)
        settings = [_settings(entry.recipe, latency=latency) for entry in entries]
        tasks, rows = self._planned(dict.fromkeys(settings))
        evaluation = self._chosen(tasks[0].plan if tasks else None)
        self.clock.report("loading", 1, 1)
        # 2. calibrate once for all recipes
        profile, calibration = self._calibrated(tasks)
        # 3. quantize and measure, recipe by recipe
        batches = evaluation.batches
        assert batches is not None  # a sweep has samples
        stopwatch = Stopwatch(self.source, next(iter(batches)), self.scratch) if latency and tasks else None
        rows |= self._measured(tasks, Tools(Evaluator(self.source, batches), profile, stopwatch))
        table = [
            rows[recipe].model_copy(update={"position": position, **dict(entry)})
            for position, (entry, recipe) in enumerate(zip(entries, settings, strict=True))
        ]
        effort = self.clock.effort()
        return SweepReport(
            rows=table,
            pareto=pareto(table),
            calibration=calibration,
            evaluation=evaluation.report,
            timings=dict(effort.timings),
            peak_memory_bytes=effort.peak_memory_bytes,
            versions=versions(self.source.libraries),
            resumed=tuple(self.checkpoints.resumed),
        )

    def _planned(self, recipes: Iterable[Recipe]) -> tuple[list[Task], dict[Recipe, SweepRow]]:
        """Return tasks for the recipes that can run, all on the same samples, and rows with errors for the others."""
        tasks, refused = [], {}
        for recipe in recipes:
            try:
                tasks.append(Task(recipe, plan(self.source, recipe, self.samples, self.evaluation)))
            except QuantizationError as error:
                refused[recipe] = _refused(recipe, error)
        tasks.sort(key=lambda task: task.plan.acceptance is None)  # if any recipe holds out acceptance samples, all do
        for position, task in enumerate(tasks):
            shared = tasks[0].plan
            same = replace(
                task.plan, calibration=shared.calibration, held_out=shared.held_out, evaluation=shared.evaluation
            )
            tasks[position] = Task(task.recipe, same)
        return tasks, refused

    def _chosen(self, shared: QuantizationPlan | None) -> EvaluationSamples:
        """Choose the samples to measure on."""
        chosen = choose_evaluation(self.evaluation, None, self.samples) if shared is None else shared.evaluation
        if chosen.source == "evaluation_dataset" or not isinstance(chosen.batches, Samples):
            return chosen
        return replace(chosen, batches=chosen.batches.first(MAX_SAMPLES))

    def _calibrated(self, tasks: Sequence[Task]) -> tuple[Profile | None, CalibrationReport]:
        """Return the statistics that any of the recipes needs, from one pass, and the report on it."""
        parts = [wanted_by(task.plan.choices, task.recipe) for task in tasks]
        layers = {layer.name: layer for watched, _ in parts for layer in watched}
        batches = tasks[0].plan.calibration if tasks else None
        if not layers or batches is None:
            return None, NOT_CALIBRATED
        wanted = Wanted(
            {name for _, part in parts for name in part.histograms},
            {name for _, part in parts for name in part.channels},
            outputs=any(part.outputs for _, part in parts),
        )
        step = partial(self.clock.report, "calibrating")
        step(0, len(batches))
        found = collect(self.source, list(layers.values()), batches, step, wanted, checkpoints=self.checkpoints)
        warnings = thin_spots(found, [name for name in layers if name in found.layers])
        return found, CalibrationReport(
            samples=found.samples,
            batches=found.batches,
            batch_size=found.batch_size,
            passes=1,
            reused=False,
            warnings=warnings,
        )

    def _measured(self, tasks: Sequence[Task], tools: Tools) -> dict[Recipe, SweepRow]:
        rows = dict(self.checkpoints.load(CHECKPOINT, _rows) or {})
        if rows:
            self.checkpoints.resumed.append("quantizing")
        self.checkpoints.begin()
        known: Weights = {}
        for done, task in enumerate(tasks):
            self.clock.report("quantizing", done, len(tasks))
            if task.recipe not in rows:
                rows[task.recipe], found = self._row(task.knowing(known), tools)
                known = _needed({**known, **found}, tasks[done + 1 :])
            if self.checkpoints.due:
                kept = [row.model_dump(mode="json") for row in rows.values()]
                self.checkpoints.save(CHECKPOINT, {"rows": kept}, {})
        self.clock.report("quantizing", len(tasks), len(tasks))
        return rows

    def _row(self, task: Task, tools: Tools) -> tuple[SweepRow, Weights]:
        """Return the row of one recipe, and quantized weights that other recipes may reuse."""
        began = monotonic()
        torch.manual_seed(task.recipe.seed)
        try:
            with TemporaryDirectory(dir=self.scratch) as scratch:
                resources = Resources(scratch=Path(scratch), metric_drop=tools.measure.metric_drop(task.recipe))
                quantized = quantize_source(
                    self.source, task.recipe, task.plan, _in_silence, tools.profile, resources=resources
                )
                measurement = tools.measure.measure(quantized.layers)
                times = (None, None) if tools.stopwatch is None else tools.stopwatch.time(quantized)
                stored = quantized.bytes
        except QuantizationError as error:
            return _refused(task.recipe, error), {}
        row = SweepRow(
            position=0,
            name=UNNAMED,
            preset=None,
            recipe=task.recipe,
            sqnr_db=finite(measurement.noise.db),
            exact=measurement.exact,
            met=_met(quantized.decisions.target, measurement.noise),
            metrics=tuple(measurement.metrics.reports()),
            bytes=stored,
            compression_ratio=self.source.original_bytes / stored,
            layers_quantized=len(quantized.layers),
            latency_ms=times[0],
            float_latency_ms=times[1],
            seconds=round(monotonic() - began, 3),
        )
        # weights in scratch files are deleted with them; weights changed by algorithms or limits fit only this recipe
        kept = [layer for layer in quantized.layers if layer.file is None and layer.rounding == "nearest"]
        own = [] if task.plan.acceptance is not None or quantized.decisions.pair_limits is not None else kept
        return row, {(layer.layer.name, layer.settings): layer for layer in own}


def _met(target: TargetReport | None, noise: Noise) -> bool | None:
    """Return whether a target is met; an SQNR must hold on the samples that the row was measured on."""
    if target is None or target.asked.min_sqnr_db is None:
        return None if target is None else target.met
    return target.met and noise.noise <= noise.signal / 10 ** (target.asked.min_sqnr_db / 10)


def _settings(recipe: Recipe, *, latency: bool) -> Recipe:
    """Return the recipe without settings that no row shows.

    With latency, the format is ONNX, which also quantizes fused outputs, so that these are calibrated.
    """
    return recipe.model_copy(
        update={"validation": ValidationSettings(), "sensitivity": False, "formats": ("onnx",) if latency else None}
    )


def _needed(known: Weights, tasks: Sequence[Task]) -> Weights:
    """Return the weights that any of these tasks can reuse; the others are freed."""
    wanted = {key for task in tasks for key in task.weights}
    return {key: layer for key, layer in known.items() if key in wanted}


def _refused(recipe: Recipe, error: QuantizationError) -> SweepRow:
    why = SweepError(code=error.code, title=error.title, detail=error.detail, remedy=error.remedy)
    return SweepRow(position=0, name=UNNAMED, preset=None, recipe=recipe, error=why)


def _rows(state: State, _: Tensors) -> dict[Recipe, SweepRow]:
    """Return the rows of an earlier attempt. Raises ValueError."""
    rows = [SweepRow.model_validate(row) for row in state["rows"]]
    return {row.recipe: row for row in rows}


def _in_silence(phase: Phase, done: int, total: int) -> None:
    """Ignore steps within a row, which are too small to report."""
