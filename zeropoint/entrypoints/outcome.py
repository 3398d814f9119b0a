"""What `quantize` makes of a verdict in Python: an error, a warning, or nothing."""

import warnings

from zeropoint.errors import QuantizationWarning, ValidationFailed
from zeropoint.schema.decisions import TargetReport
from zeropoint.schema.report import Report
from zeropoint.validation.report import validation_failed

CALLERS = 3
"""The frame that a warning names: the one that called `quantize`, which called `conclude`."""


def conclude(report: Report) -> None:
    """Follow the recipe's `on_failure`: "error" raises, "warn" warns, "ignore" does nothing.

    A failed check and a missed target both count; a plan that misses its target is only warned about. What is
    "warned" for another reason is a warning under "error" too. Raises ValidationFailed, whose `report` is the
    report.
    """
    wish = report.recipe.validation.on_failure
    missed = report.target if report.target is not None and not report.target.met else None
    planned = report.recipe.mode == "recommend"
    if wish == "error" and not planned and (report.verdict == "failed" or missed is not None):
        failure = validation_failed(report) if report.verdict == "failed" or missed is None else _target_missed(missed)
        failure.report = report
        raise failure
    if wish != "ignore" and (report.verdict in ("warned", "failed") or (planned and missed is not None)):
        warnings.warn(QuantizationWarning(_reasons(report)), stacklevel=CALLERS)


def _target_missed(target: TargetReport) -> ValidationFailed:
    """Return the error for a result whose checks passed, but which misses its target."""
    return ValidationFailed(
        "target_not_met",
        target.detail,
        'Ask for less, give more calibration samples, or set on_failure to "warn" to get the best that was found; '
        "the error's `report` describes it.",
    )


def _reasons(report: Report) -> str:
    """Return why a result is not simply passed, in a sentence or two."""
    failed = [f"{check.name}: {check.detail}" for check in report.checks if not check.passed]
    target = [report.target.detail] if report.target is not None and not report.target.met else []
    doubts = [f"{one.code}: {one.detail} {one.remedy}" for one in report.warnings if one.level == "warning"]
    return f"The result is {report.verdict!r}. " + " ".join([*failed, *target, *doubts] or ["See `report`."])
