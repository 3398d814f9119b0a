"""The report of a result: the quantization error of each layer, the validation checks, and the verdict."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from zeropoint.errors import ValidationFailed
from zeropoint.layers.quantized_layer import QuantizedLayer
from zeropoint.layers.result import Decisions, Quantized
from zeropoint.metrics.sqnr import finite
from zeropoint.schema.job import REPORT_FILE
from zeropoint.schema.recipe import Override, Recipe
from zeropoint.schema.report import (
    AcceptanceReport,
    ActivationReport,
    EvaluationReport,
    LayerReport,
    Loaded,
    Report,
    ResumedPhase,
    Summary,
    TargetReport,
    Verdict,
    WeightReport,
)
from zeropoint.validation.checks import (
    _beside_db,
    _comparison_check,
    _load_check,
    _range_check,
    _rounding_errors,
    _size_check,
    _sqnr_check,
    verdict,
)
from zeropoint.validation.evaluation import Evaluation, TensorDiff


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


def judged(target: TargetReport | None, summary: Summary) -> TargetReport | None:
    """Return the target's report, measured again on the evaluation samples if it asks for an SQNR."""
    bound = None if target is None else target.asked.min_sqnr_db
    if target is None or bound is None or (summary.sqnr_db is None and not summary.exact):
        return target
    met = summary.exact or (summary.sqnr_db is not None and summary.sqnr_db >= bound)
    detail = target.detail
    if target.met and not met:
        detail = "Met on the acceptance samples, but not on the evaluation samples: calibrate with more samples."
    return target.model_copy(update={"met": met, "value": summary.sqnr_db, "detail": detail})


def with_target(verdict: Verdict, target: TargetReport | None) -> Verdict:
    """Return the verdict; a result that passes but misses its target is "warned"."""
    return "warned" if target is not None and not target.met and verdict == "passed" else verdict


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
    summary = _summary(quantized, evaluation)
    ran = validated.opened and (evaluation is None or evaluation.ran)
    beside = {} if evaluation is None else evaluation.beside
    if isinstance(measured, TensorDiff):
        load_check, errors = _comparison_check(measured, opened=validated.opened), measured.moves
    else:
        load_check, errors = _load_check(ran, validated.evaluated), _rounding_errors(quantized.layers)
    checks = [
        *([] if evaluation is None else [_sqnr_check(summary, beside, ran, settings)]),
        _size_check(summary, quantized.layers, settings),
        load_check,
        _range_check(errors, quantized.layers),
    ]
    target = judged(quantized.decisions.target, summary)
    return _planned(quantized, evaluation, effort).model_copy(
        update={
            "verdict": with_target(verdict(checks, settings, validated.evaluated), target),
            "checks": checks,
            "evaluation": validated.evaluated,
            "target": target,
            "recommendation": recommended(quantized) if quantized.recipe.searches else None,
            "metrics": [] if evaluation is None or not ran else evaluation.metrics.reports(),
            "loaded": [
                entry.model_copy(update={"sqnr_db": _beside_db(beside, entry.name)}) for entry in validated.loaded
            ],
        }
    )


def build_plan(quantized: Quantized, effort: Effort) -> Report:
    """Return the report of a plan: no file was written, so none was read back or evaluated."""
    return _planned(quantized, None, effort).model_copy(update={"recommendation": recommended(quantized)})


def _planned(quantized: Quantized, evaluation: Evaluation | None, effort: Effort) -> Report:
    """Return the part of a report that is known before the files are validated."""
    decisions = quantized.decisions
    return Report(
        verdict="not_evaluated",
        summary=_summary(quantized, evaluation),
        checks=[],
        layers=[_layer_report(layer, evaluation, decisions) for layer in quantized.layers],
        skipped=quantized.skipped,
        calibration=quantized.calibration,
        evaluation=EvaluationReport(source="none", samples=0),
        gate=_gate_report(decisions),
        algorithms=decisions.algorithms,
        target=decisions.target,
        timings=dict(effort.timings),
        peak_memory_bytes=effort.peak_memory_bytes,
        resumed=list(effort.resumed),
        recipe=quantized.recipe,
        versions=quantized.versions,
    )


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
    return ValidationFailed(
        "validation_failed",
        "; ".join(f"{check.name}: {check.detail}" for check in failed),
        "Read the report for the layers that lose most, exclude them or lower the bound, "
        'or set "on_failure" to "warn" to get the artifacts all the same.',
    )


def _summary(quantized: Quantized, evaluation: Evaluation | None) -> Summary:
    source = quantized.source
    stored = quantized.bytes
    return Summary(
        sqnr_db=None if evaluation is None else finite(evaluation.model.db),
        exact=evaluation is not None and evaluation.ran and evaluation.model.exact,
        cosine=None if evaluation is None else evaluation.cosine.value,
        original_bytes=source.original_bytes,
        quantized_bytes=stored,
        compression_ratio=source.original_bytes / stored,
        dead_bytes=source.dead_bytes,
        layers_quantized=len(quantized.layers),
        layers_skipped=len(quantized.skipped),
    )


def _layer_report(layer: QuantizedLayer, evaluation: Evaluation | None, decisions: Decisions) -> LayerReport:
    activation = layer.activation
    return LayerReport(
        name=layer.layer.name,
        type=layer.layer.type,
        weight=WeightReport(
            dtype=layer.settings.dtype,
            scheme=layer.settings.scheme,
            granularity=layer.settings.granularity,
            axis=None if layer.qparams is None else layer.qparams.axis,
            shape=list(layer.weight.shape),
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
        sensitivity_db=decisions.sensitivity.get(layer.layer.name),
        original_bytes=layer.layer.bytes,
        quantized_bytes=layer.bytes,
    )
