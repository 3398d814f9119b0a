"""What a target comes to once the result was measured, and what that means for the verdict."""

from quantization.report import Summary, TargetReport, Verdict


def judged(target: TargetReport | None, summary: Summary) -> TargetReport | None:
    """The target on the evaluation samples, where its unit is what they measure."""
    bound = None if target is None else target.asked.min_sqnr_db
    if target is None or bound is None or (summary.sqnr_db is None and not summary.exact):
        return target
    met = summary.exact or (summary.sqnr_db is not None and summary.sqnr_db >= bound)
    detail = target.detail
    if target.met and not met:
        detail = "Met by the samples that decided, and not by those that evaluate: calibrate with more samples."
    return target.model_copy(update={"met": met, "value": summary.sqnr_db, "detail": detail})


def with_target(verdict: Verdict, target: TargetReport | None) -> Verdict:
    """A result that is sound and misses its target is worth a warning."""
    return "warned" if target is not None and not target.met and verdict == "passed" else verdict
