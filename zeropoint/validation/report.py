"""The report of a result: the quantization error of each layer, the validation checks, and the verdict."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zeropoint.errors import ValidationFailed
from zeropoint.layers.quantized_layer import QuantizedLayer
from zeropoint.layers.result import Decisions, Quantized
from zeropoint.layers.stored_tensors import stored_bytes
from zeropoint.metrics.sqnr import finite
from zeropoint.schema.decisions import AcceptanceReport, TargetReport
from zeropoint.schema.job import REPORT_FILE
from zeropoint.schema.recipe import Override, Recipe
from zeropoint.schema.report import (
    ActivationReport,
    EvaluationReport,
    LayerReport,
    Loaded,
    Report,
    ReportWarning,
    ResumedPhase,
    SkippedLayer,
    Summary,
    Verdict,
    WeightReport,
)
from zeropoint.schema.runtimes import RuntimeReport
from zeropoint.simulation.processor import SATURATING
from zeropoint.validation.below import below_warnings, in_words, remedy, rows_below
from zeropoint.validation.checks import (
    _comparison_check,
    _load_check,
    _range_check,
    _rounding_errors,
    _size_check,
    sqnr_check,
    verdict,
)
from zeropoint.validation.evaluation import Evaluation, TensorDiff
from zeropoint.validation.in_float import InFloat, in_float
from zeropoint.validation.outputs import Outputs
from zeropoint.validation.warnings import result_warnings


def recommended(quantized: Quantized) -> Recipe:
    """Return a recipe without a target that reproduces this result.

    It has the algorithms that were kept, and an override for each layer that the target left in float. Everything else
    stays as requested.
    """
    recipe, decisions = quantized.recipe, quantized.decisions
    in_float = [skip.name for skip in quantized.skipped if skip.reason == "mixed_precision"]
    kept = [{"kind": step.algorithm, **step.settings} for step in decisions.algorithms if step.kept]
    overrides = [Override(names=(name,), weights=None, activations=None) for name in in_float]
    fields = {name: getattr(recipe, name) for name in recipe.model_fields_set - {"mode", "target"}}
    fields["algorithms"] = [algorithm for algorithm in kept if algorithm["kind"] != "mixed_precision"]
    fields["overrides"] = [*overrides, *recipe.overrides]
    return Recipe.model_validate(fields)


def judged(
    target: TargetReport | None, summary: Summary, runtimes: Sequence[RuntimeReport] = ()
) -> TargetReport | None:
    """Return the target's report, measured again on the evaluation samples if it asks for an SQNR.

    It is met if the search's bound held and these samples reach it too, in every runtime. They alone, often 32, show no
    bound.
    """
    bound = None if target is None else target.asked.min_sqnr_db
    if target is None or bound is None:
        return target
    if summary.sqnr_db is None and not summary.exact:
        detail = "No SQNR could be measured on the evaluation samples."
        return target if summary.worst_agreement is None else target.model_copy(update={"met": False, "detail": detail})
    reached = summary.exact or (summary.sqnr_db is not None and summary.sqnr_db >= bound)
    missed = rows_below(runtimes, bound, summary.sqnr_db)
    met, detail = target.met and reached and not missed, target.detail
    if target.met and not reached:
        detail = "Met on the acceptance samples, but not on the evaluation samples: calibrate with more samples."
    elif target.met and missed:
        detail = f"Met by the saved program, but not by {in_words(missed)}. {remedy(missed)}"
    return target.model_copy(update={"met": met, "value": summary.sqnr_db, "detail": detail})


def with_doubts(verdict: Verdict, target: TargetReport | None, warnings: Sequence[ReportWarning]) -> Verdict:
    """Return the verdict; a result that passes, but misses its target or has a warning, is "warned"."""
    doubts = (target is not None and not target.met) or any(warning.level == "warning" for warning in warnings)
    return "warned" if doubts and verdict == "passed" else verdict


@dataclass(frozen=True)
class Validated:
    """The results of reading the saved files back and running them."""

    evaluated: EvaluationReport
    opened: bool
    """Whether the saved files could be opened."""
    measured: Evaluation | TensorDiff | None = None
    """None without samples, a TensorDiff without a graph."""
    loaded: Sequence[Loaded] = ()
    """The libraries that opened them."""
    runtimes: Sequence[RuntimeReport] = ()
    """What users get of them."""


@dataclass(frozen=True)
class Effort:
    """The time and memory that a result took."""

    timings: Mapping[str, float] = field(default_factory=dict)
    """Seconds by phase."""
    peak_memory_bytes: int = 0
    resumed: Sequence[ResumedPhase] = ()


def build_report(quantized: Quantized, validated: Validated, effort: Effort) -> Report:
    """Return the report of a result that was saved and read back."""
    measured, settings = validated.measured, quantized.recipe.validation
    evaluation = measured if isinstance(measured, Evaluation) else None
    left = in_float(quantized, None if evaluation is None else evaluation.macs)
    summary = _summary(quantized, evaluation, left)
    ran = validated.opened and (evaluation is None or evaluation.ran)
    beside = {} if evaluation is None else evaluation.beside
    if isinstance(measured, TensorDiff):
        load_check, errors = _comparison_check(measured, opened=validated.opened), measured.max_errors
    else:
        load_check, errors = _load_check(ran, validated.evaluated), _rounding_errors(quantized.layers)
    checks = [
        *([] if evaluation is None else [sqnr_check(evaluation.outputs, beside, ran, settings, validated.runtimes)]),
        _size_check(summary, quantized.layers, settings),
        load_check,
        _range_check(errors, quantized.layers),
    ]
    target = judged(quantized.decisions.target, summary, validated.runtimes)
    warnings = [*result_warnings(quantized, evaluation, left), *below_warnings(validated.runtimes, quantized.recipe)]
    return _planned(quantized, evaluation, effort, left).model_copy(
        update={
            "verdict": with_doubts(verdict(checks, settings, validated.evaluated), target, warnings),
            "checks": checks,
            "warnings": warnings,
            "outputs": [] if evaluation is None else evaluation.outputs.reports(),
            "evaluation": validated.evaluated,
            "target": target,
            "recommendation": recommended(quantized) if quantized.recipe.searches else None,
            "metrics": [] if evaluation is None or not ran else evaluation.metrics.reports(),
            "runtimes": list(validated.runtimes),
            "loaded": [_loaded(entry, beside) for entry in validated.loaded],
        }
    )


def build_plan(quantized: Quantized, effort: Effort) -> Report:
    """Return the report of a plan: no file was written, so none was read back or evaluated."""
    left = in_float(quantized, None)
    found = {"recommendation": recommended(quantized), "warnings": result_warnings(quantized, None, left)}
    return _planned(quantized, None, effort, left).model_copy(update=found)


def _planned(quantized: Quantized, evaluation: Evaluation | None, effort: Effort, left: InFloat) -> Report:
    """Return the part of a report that is known before the files are validated."""
    decisions = quantized.decisions
    return Report(
        verdict="not_evaluated",
        summary=_summary(quantized, evaluation, left),
        checks=[],
        layers=by_cost([_layer_report(layer, evaluation, decisions) for layer in quantized.layers]),
        skipped=_skipped(quantized, left),
        calibration=quantized.calibration,
        evaluation=EvaluationReport(source="none", samples=0),
        gate=_gate_report(decisions),
        algorithms=decisions.algorithms,
        pair_limits=decisions.pair_limits,
        integer_outputs=decisions.integer_outputs,
        target=decisions.target,
        timings=dict(effort.timings),
        peak_memory_bytes=effort.peak_memory_bytes,
        resumed=list(effort.resumed),
        recipe=quantized.recipe,
        versions=quantized.versions,
    )


def _skipped(quantized: Quantized, left: InFloat) -> list[SkippedLayer]:
    """Return the skipped layers with their shares; what is not part of the model has none."""
    shares = {layer.name: {"weights": layer.weights, "macs": layer.macs} for layer in left.layers}
    return [skip.model_copy(update=shares.get(skip.name, {})) for skip in quantized.skipped]


def _gate_report(decisions: Decisions) -> AcceptanceReport | None:
    if not decisions.acceptance_samples:
        return None
    return AcceptanceReport(samples=decisions.acceptance_samples, sqnr_db=decisions.acceptance_db)


def settle(report: Report, out: Path) -> None:
    """Write the report into a job's `out`. Raises ValidationFailed when the verdict is an error for the recipe."""
    (out / REPORT_FILE).write_text(report.model_dump_json(indent=1))
    if report.verdict == "failed" and report.recipe.validation.on_failure == "error":
        raise validation_failed(report)


def validation_failed(report: Report) -> ValidationFailed:
    """Return the error for a failed verdict, with the details of the failed checks."""
    failed = [check for check in report.checks if not check.passed]
    bound = report.recipe.validation.min_sqnr_db
    missed = [] if bound is None else rows_below(report.runtimes, bound, report.summary.sqnr_db)
    cause = f"{remedy(missed)} " if missed and missed[0].level in SATURATING else ""
    return ValidationFailed(
        "validation_failed",
        "; ".join(f"{check.name}: {check.detail}" for check in failed),
        f"{cause}Read the report for the layers that lose most, exclude them or lower the bound, "
        'or set "on_failure" to "warn" to get the artifacts all the same.',
    )


def _loaded(entry: Loaded, beside: Mapping[str, Outputs]) -> Loaded:
    """Return the entry with the file's own numbers, if it was run in addition to the first file."""
    outputs = beside.get(entry.name)
    if outputs is None:
        return entry
    return entry.model_copy(update={"sqnr_db": finite(outputs.noise.db), "outputs": outputs.reports()})


def _summary(quantized: Quantized, evaluation: Evaluation | None, left: InFloat) -> Summary:
    source = quantized.source
    stored = quantized.bytes
    outputs = Outputs() if evaluation is None else evaluation.outputs
    return Summary(
        sqnr_db=finite(outputs.noise.db),
        exact=evaluation is not None and evaluation.ran and outputs.exact,
        worst_output_db=outputs.worst_db,
        worst_agreement=outputs.worst_agreement,
        cosine=outputs.cosine,
        weights_in_float=left.weights,
        macs_in_float=left.macs,
        in_float=left.by_reason,
        original_bytes=source.original_bytes,
        quantized_bytes=stored,
        compression_ratio=source.original_bytes / stored,
        dead_bytes=source.dead_bytes,
        layers_quantized=len(quantized.layers),
        layers_skipped=len(quantized.skipped),
    )


def by_cost(layers: Sequence[LayerReport]) -> list[LayerReport]:
    """Return layers in falling order of what excluding them gains, then those of which that isn't known."""
    return sorted(layers, key=lambda layer: math.inf if (gain := layer.excluding_gains_db) is None else -gain)


def _excluding(layer: QuantizedLayer, decisions: Decisions) -> dict[str, Any]:
    """Return the fields that say what excluding a layer gains and costs; algorithms that were kept stay as they are."""
    gain = decisions.gains.get(layer.layer.name)
    if gain is None:
        return {}
    name, added = layer.layer.name, layer.layer.bytes - stored_bytes(layer)
    kept = any(step.kept and step.algorithm != "fold_normalization" for step in decisions.algorithms)
    same = ", with the same algorithms" if kept else ""
    words = f"Excluding {name!r} gains {gain:.1f} dB for {added:,} bytes{same}."
    return {"excluding_gains_db": gain, "excluding_adds_bytes": added, "excluding": words}


def _layer_report(layer: QuantizedLayer, evaluation: Evaluation | None, decisions: Decisions) -> LayerReport:
    activation = layer.activation
    return LayerReport(
        name=layer.layer.name,
        type=layer.layer.type,
        weight=WeightReport(
            dtype=layer.settings.dtype,
            scheme=layer.settings.scheme,
            granularity=layer.settings.granularity,
            axis=None if layer.qparams is None else layer.layer.stored_axis(layer.qparams.axis),
            shape=layer.layer.stored_shape(layer.weight.shape),
        ),
        activation=activation
        and ActivationReport(
            dtype=activation.settings.dtype,
            scheme=activation.settings.scheme,
            scale=float(activation.qparams.scale),
            zero_point=int(activation.qparams.zero_point),
            minimum=activation.minimum,
            maximum=activation.maximum,
        ),
        weight_sqnr_db=finite(layer.weight_sqnr_db),
        output_sqnr_db=None if evaluation is None else finite(evaluation.layers[layer.layer.name].db),
        saturation=None if evaluation is None else evaluation.saturation[layer.layer.name].value,
        limited_outputs=layer.limited_outputs,
        sensitivity_db=decisions.sensitivity.get(layer.layer.name),
        original_bytes=layer.layer.bytes,
        quantized_bytes=stored_bytes(layer),
        **_excluding(layer, decisions),
    )
