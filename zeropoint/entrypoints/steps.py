"""The steps of a quantization: plan, calibrate and quantize, save, validate, report.

A job on disk and a call in memory load differently, and then `run` the same steps. A sweep, a file of weights and a
separate validation use only some of the steps.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Protocol

from zeropoint.calibration.cached_profile import cached_profile
from zeropoint.calibration.profile import Profile
from zeropoint.data.batches import Batches, Samples
from zeropoint.data.dataset import Dataset, open_dataset
from zeropoint.engine.plan import EvaluationSamples, QuantizationPlan, plan
from zeropoint.engine.quantize import Resources, quantize_source
from zeropoint.entrypoints.clock import Clock
from zeropoint.entrypoints.failures import model_errors
from zeropoint.files.checkpoints import NO_CHECKPOINTS, Checkpoints
from zeropoint.formats import VALIDATED, WRITERS, record_results, write_formats
from zeropoint.layers.result import Quantized
from zeropoint.metrics.rows import pooled_rows
from zeropoint.metrics.task_metrics import require_truth_fits
from zeropoint.model.source import ProgramSource, Source
from zeropoint.schema.formats import SourceFormat, formats_of
from zeropoint.schema.job import COMPILE_SECONDS, JobSpec
from zeropoint.schema.recipe import Recipe
from zeropoint.schema.report import Loaded, Report
from zeropoint.simulation.exclusion import measured_gains
from zeropoint.simulation.measure import Evaluator
from zeropoint.sources.huggingface.source import HuggingFaceSource
from zeropoint.validation.compiling import Wish, measure_compiled
from zeropoint.validation.evaluation import Evaluation, SavedModel, evaluate
from zeropoint.validation.latency import Timer, measure_latency, with_latency
from zeropoint.validation.report import Validated, build_plan, build_report
from zeropoint.validation.runtimes import runtime_reports, wanted_runs


class Saved(SavedModel, Timer, Protocol):
    """Opens the saved files again; it is created before they exist."""

    @property
    def loaded(self) -> list[Loaded]:
        """Return which library opened which file."""

    def open(self, folder: Path) -> bool:
        """Return whether the saved files open and agree with each other."""


@dataclass(frozen=True)
class Outputs:
    """The formats of a result, by name."""

    wanted: tuple[str, ...]
    """The formats that the recipe asks for."""
    written: tuple[str, ...]
    """The formats that are written, in the writers' order; validation may need more than the recipe asks for."""

    @classmethod
    def of(cls, recipe: Recipe, source: SourceFormat) -> "Outputs":
        """Return the formats of a recipe for this kind of source."""
        wanted = formats_of(recipe, source)
        return cls(wanted, tuple(name for name in WRITERS if name in {*wanted, *VALIDATED.get(source, ())}))


@dataclass(frozen=True)
class ProfilePlaces:
    """The files from which statistics are read, and to which they are written."""

    load: Path | None = None
    save: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Work:
    """A loaded model, its data, and where results go."""

    source: Source
    recipe: Recipe
    samples: Samples | None
    evaluation: Batches | None
    folder: Path
    """Where the formats are written."""
    outputs: Outputs
    saved: Saved
    clock: Clock
    profile: ProfilePlaces = ProfilePlaces()
    checkpoints: Checkpoints = NO_CHECKPOINTS
    scratch: Path | None = None
    compile_seconds: float = COMPILE_SECONDS


def run(work: Work) -> Report:
    """Do all steps after loading. Raises QuantizationError."""
    with model_errors(work.source, lambda: work.clock.phase):
        return _run(work)


def _run(work: Work) -> Report:
    planned = plan(work.source, work.recipe, work.samples, work.evaluation)
    work.clock.report("loading", 1, 1)
    quantized = calibrate_and_quantize(work, planned)
    if work.recipe.mode == "recommend":
        return build_plan(quantized, work.clock.effort())
    save(quantized, work.folder, work.outputs.written, work.clock)
    work.clock.report("validating", 0, 0)
    opened = work.saved.open(work.folder)
    wish = Wish.of(quantized, work.outputs.wanted, work.compile_seconds)
    folder = work.folder if opened else None
    validated = validate_saved(quantized, planned.evaluation, work.saved, work.clock, wish, folder=folder)
    quantized = with_measured_gains(quantized, planned, validated)
    report = build_report(quantized, validated, work.clock.effort(work.checkpoints.resumed))
    if opened:  # else a file is not what was written, and the report says so
        record_results(quantized, work.folder, work.outputs.written, report)
    return report


def with_measured_gains(quantized: Quantized, planned: QuantizationPlan, validated: Validated) -> Quantized:
    """Return the result with what excluding its noisiest layers gains, measured on samples that evaluated it."""
    measured, batches, gains = validated.measured, planned.evaluation.batches, quantized.decisions.gains
    if not gains or batches is None or planned.calibration is None or not isinstance(measured, Evaluation):
        return quantized
    if not measured.ran or not measured.rows:
        return quantized
    asked, evaluation = bool(quantized.recipe.sensitivity), (batches, pooled_rows(measured.rows))
    calibrating = planned.calibration.count
    found = measured_gains(quantized.source, quantized.layers, gains, evaluation, calibrating, asked=asked)
    return replace(quantized, decisions=replace(quantized.decisions, gains=found))


def calibrate_and_quantize(work: Work, planned: QuantizationPlan) -> Quantized:
    """Run the plan, with the statistics of a profile if there is one."""
    batches = planned.evaluation.batches
    metric_drop = None if batches is None else Evaluator(work.source, batches).metric_drop(work.recipe)
    resources = Resources(work.checkpoints, work.scratch, metric_drop)
    return quantize_source(
        work.source, work.recipe, planned, work.clock.report, _profile(work, planned), resources=resources
    )


def _profile(work: Work, planned: QuantizationPlan) -> Profile | None:
    """Return the profile that was read or written; None when no file is given or no samples calibrate."""
    if work.profile == ProfilePlaces() or planned.calibration is None:
        return None
    step = partial(work.clock.report, "calibrating")
    if work.profile.load is None:
        step(0, len(planned.calibration))
    return cached_profile(
        work.source,
        planned.calibration,
        step,
        load=work.profile.load,
        save=work.profile.save,
        checkpoints=work.checkpoints,
    )


def save(quantized: Quantized, folder: Path, formats: Iterable[str], clock: Clock) -> None:
    """Write these formats into the folder. Raises OSError when they can't be written."""
    names = list(formats)
    for done, _ in enumerate(write_formats(quantized, folder, names), start=1):
        clock.report("saving", done, len(names))


def validate_saved(
    quantized: Quantized,
    evaluation: EvaluationSamples,
    saved: Saved,
    clock: Clock,
    wish: Wish,
    *,
    folder: Path | None,
) -> Validated:
    """Run the samples through the float model and the saved one, also as runtimes do.

    `folder`: of the saved files; None if they could not be opened.
    """
    opened = folder is not None
    if folder is None or evaluation.batches is None:
        return Validated(evaluation.report, opened=opened, loaded=saved.loaded)
    step, also = partial(clock.report, "validating"), wanted_runs(quantized, wish)
    measured = evaluate(quantized, evaluation.batches, saved, step, also)
    rows = []
    if measured.ran:
        compiled = measure_compiled(quantized.source, measured.runs, saved, wish, folder, taken=clock.taken)
        rows = runtime_reports(quantized, measured, saved.loaded, wish, compiled)
        found = measure_latency(quantized.source, measured.runs, saved, wish, folder, compiled=compiled)
        rows = with_latency(rows, found, wish)
    return Validated(evaluation.report, opened=opened, measured=measured, loaded=saved.loaded, runtimes=rows)


def open_samples(
    folder: Path, spec: JobSpec, source: ProgramSource | HuggingFaceSource, batch_size: int | None
) -> tuple[Dataset | None, Dataset | None]:
    """Open a job's dataset and evaluation dataset.

    Raises InvalidSamples when one doesn't fit the model, ModelFailed when the model can't run on the first samples.
    """
    samples, evaluation = (
        None if name is None else open_dataset(folder / name, source.inputs, batch_size)
        for name in (spec.dataset, spec.evaluation_dataset)
    )
    measuring = evaluation or samples
    if measuring is not None:
        with model_errors(source, lambda: "loading"):
            require_truth_fits(source, measuring)
    return samples, evaluation
