"""Whether a candidate meets a target, with what fresh samples may differ by taken off.

min_sqnr_db   the SQNR on the acceptance samples minus its bootstrap margin (`metrics.bound`), with the noise that
              values outside the static ranges may add (`search.out_of_range`)
max_drop      the drop on the evaluation samples plus its margin, where there are enough samples to show such a drop
max_bytes     the bytes of all stored tensors, which don't depend on samples
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from zeropoint.algorithms.context import Layers
from zeropoint.layers.result import Quantized
from zeropoint.metrics.bound import loss_margin, margins_db
from zeropoint.metrics.rows import Rows
from zeropoint.metrics.sqnr import Noise, finite
from zeropoint.model.source import Source
from zeropoint.schema.decisions import TargetReport
from zeropoint.schema.recipe import Recipe
from zeropoint.schema.report import NOT_CALIBRATED, ReportWarning
from zeropoint.schema.target import AccuracyTarget
from zeropoint.search.out_of_range import OutOfRange
from zeropoint.search.trial import Candidate
from zeropoint.simulation.measure import Evaluator, MetricDrop, MetricLoss

NEGLIGIBLE = 0.1
"""Noise beyond the ranges below this share of what is allowed is not measured again with fewer layers."""
MOST_NEEDED = 1_000_000
Evaluate = Callable[[Layers], Noise]
"""Returns signal and noise of the given layers on the evaluation samples."""


@dataclass(frozen=True, eq=False)
class Trial:
    """A candidate with what the target is measured by; both are None where they aren't needed."""

    candidate: Candidate
    in_float: frozenset[str] = frozenset()
    rows: Rows | None = None
    """Signal and noise of each acceptance sample."""
    loss: MetricLoss | None = None
    """Loss of the target's metric on the evaluation samples."""
    evaluation: Noise | None = None
    """Signal and noise on the evaluation samples, if the target must hold on them too."""
    outside: float = 0.0
    """Noise beyond the static ranges, as a share of the signal; counted where there are rows."""


@dataclass(frozen=True)
class Standing:
    """What a trial reaches in the target's unit, what fresh samples will show (`bound`), and whether that is enough."""

    value: float | None
    met: bool
    margin: float | None = None
    bound: float | None = None
    inside: float | None = None
    """The bound of an SQNR without the noise of values outside the static ranges."""


@dataclass(frozen=True)
class TargetCheck:
    """A target and how to measure it."""

    asked: AccuracyTarget
    source: Source
    acceptance: Evaluator
    fresh_samples: int
    """How many fresh samples the target shall hold on: as many as evaluate the result."""
    metric_drop: MetricDrop | None = None
    evaluate: Evaluate | None = None
    """Set for a second search: an SQNR must hold on the evaluation samples too."""
    raised_db: float = 0.0
    """By how much those samples missed the SQNR: so much more is expected to be necessary."""
    out_of_range: OutOfRange | None = None
    """The samples that gave the ranges, for an SQNR."""

    @property
    def sqnr_db(self) -> float | None:
        """The least SQNR in dB that fresh samples shall have; None when the target is not an SQNR."""
        return self.asked.min_sqnr_db

    @property
    def bytes_asked(self) -> int | None:
        return self.asked.max_bytes

    def trial(
        self, candidate: Candidate, in_float: frozenset[str] = frozenset(), outside: float | None = None
    ) -> Trial:
        """Return the candidate with what its standing needs; an SQNR that is too low anyway needs no rows.

        `outside`: the noise beyond the ranges with more layers; where it hardly matters it isn't measured again.
        """
        rows = loss = None
        if self.sqnr_db is not None and _at_least(candidate.noise, self.sqnr_db):
            rows = self.acceptance.by_row(candidate.layers.values())
            if outside is None or outside > NEGLIGIBLE / 10 ** (self.sqnr_db / 10):
                outside = self.outside(candidate)
        if self.metric_drop is not None and self.asked.max_drop is not None:
            loss = self.metric_drop(candidate.layers)
        return self.evaluated(Trial(candidate, in_float, rows, loss, outside=outside or 0.0))

    def outside(self, candidate: Candidate) -> float:
        """Return the noise beyond the static ranges, as a share of the signal."""
        return 0.0 if self.out_of_range is None else self.out_of_range.ratio(candidate.layers)

    def evaluated(self, trial: Trial) -> Trial:
        """Return a trial with its noise on the evaluation samples, if these count and it may be good enough."""
        if self.evaluate is None or trial.rows is None:
            return trial
        return replace(trial, evaluation=self.evaluate(trial.candidate.layers))

    def allowed(self, trial: Trial, standing: Standing, usual_margin: float) -> float:
        """Return the noise on the acceptance samples with which this trial would just meet an SQNR."""
        noise, asked = trial.candidate.noise, self.sqnr_db or 0.0
        margin = usual_margin if standing.margin is None else standing.margin
        by_acceptance = noise.signal / 10 ** ((asked + margin) / 10)
        if trial.evaluation is None or not trial.evaluation.noise > 0:
            return by_acceptance / 10 ** (self.raised_db / 10)
        room = trial.evaluation.signal / 10 ** (asked / 10) / trial.evaluation.noise
        return min(by_acceptance, noise.noise * room)

    def standings(self, trials: Sequence[Trial]) -> list[Standing]:
        """Return the standing of each trial, all of which may be chosen from."""
        if self.sqnr_db is not None:
            return self._by_sqnr(trials, self.sqnr_db)
        if self.asked.max_drop is not None:
            return [self._by_metric(trial.loss, self.asked.max_drop.value) for trial in trials]
        sizes = [self.bytes_of(trial.candidate.layers) for trial in trials]
        return [Standing(size, size <= (self.bytes_asked or 0)) for size in sizes]

    def bytes_of(self, layers: Layers) -> int:
        """Return the bytes of all tensors that would be stored."""
        return Quantized(self.source, Recipe(), list(layers.values()), [], NOT_CALIBRATED, {}).bytes

    def report(
        self, trial: Trial, standing: Standing, *, share: float | None, in_float: int, trials: int
    ) -> TargetReport:
        """Return the report on the target: what was asked, and what the chosen trial reaches."""
        rest = f"{in_float} of the layers that could be quantized stay in float."
        missed = f"Not found within {trials} trials: this is the closest result; {rest}"
        detail = f"The target is met; {rest}" if standing.met else missed
        if standing.met and trial.loss is not None and standing.margin is None:
            detail += (
                f" {len(trial.loss.rows)} evaluation samples are too few to tell such a drop from none: "
                "on other samples it may be larger."
            )
        needed = None if standing.met else self.samples_needed(trial, standing)
        if needed is not None:
            detail += (
                f" What was measured would do, but fresh samples may lie outside the ranges: "
                f"calibrate with {needed:,} samples or more."
            )
        return TargetReport(
            asked=self.asked,
            met=standing.met,
            value=standing.value,
            bound=standing.bound,
            margin_db=standing.margin if self.sqnr_db is not None else None,
            trials=trials,
            layers_in_float=in_float,
            macs_in_float=share,
            samples_needed=needed,
            detail=detail,
        )

    def samples_needed(self, trial: Trial, standing: Standing) -> int | None:
        """Return how many samples would give ranges that are sure enough; None if the target is missed in any case.

        The chance of values outside the ranges falls as 1 / samples; where nothing is known, 100 are a beginning.
        """
        if self.out_of_range is None or self.sqnr_db is None or standing.inside is None:
            return None
        room = 10 ** (-self.sqnr_db / 10) - 10 ** (-standing.inside / 10)
        if not room > 0 or trial.outside == 0:
            return None
        count = self.out_of_range.samples.count
        exact = count * trial.outside / room if math.isfinite(trial.outside) else 75.0
        step = 10 ** max(math.floor(math.log10(max(exact, 1.0))) - 1, 0)
        held_out = (exact * 16 / 9) / step  # of all samples given, 9 of 16 calibrate
        return min(math.ceil(held_out) * step, MOST_NEEDED) if exact > count else None

    def _by_sqnr(self, trials: Sequence[Trial], asked: float) -> list[Standing]:
        eligible = [trial for trial in trials if trial.rows is not None and _at_least(trial.candidate.noise, asked)]
        rows = [trial.rows for trial in eligible if trial.rows is not None]
        fresh = round(self.fresh_samples * len(rows[0]) / max(self.acceptance.samples, 1)) if rows else 1
        margins = margins_db(rows, fresh)
        margin_of = {id(trial): margin for trial, margin in zip(eligible, margins, strict=True)}
        return [_standing(trial, margin_of.get(id(trial)), asked) for trial in trials]

    def _by_metric(self, loss: MetricLoss | None, asked: float) -> Standing:
        if loss is None:
            return Standing(None, met=False)
        value, rows = finite(loss.drop), loss.rows
        if value is None or loss_margin(torch.zeros_like(rows), len(rows)) > asked:
            return Standing(value, value is not None and value <= asked)
        margin = loss_margin(rows, len(rows))
        return Standing(value, value + margin <= asked, margin, value + margin)


def few_samples(target: TargetReport | None) -> tuple[ReportWarning, ...]:
    """Return a warning if a target is missed because too few samples gave the ranges."""
    if target is None or target.samples_needed is None:
        return ()
    return (
        ReportWarning(
            code="few_samples_for_target",
            detail="The samples that gave the static ranges are too few for this target: fresh ones may lie outside.",
            remedy=f"Give {target.samples_needed:,} samples or more, or ask for less.",
        ),
    )


def _at_least(noise: Noise, db: float) -> bool:
    """Return whether an SQNR is at least so many dB, before any margin; NaN never is."""
    return noise.noise <= noise.signal / 10 ** (db / 10)


def _standing(trial: Trial, margin: float | None, asked: float) -> Standing:
    value, holds = finite(trial.candidate.noise.db), trial.evaluation is None or _at_least(trial.evaluation, asked)
    if margin is None or value is None:
        return Standing(value, trial.candidate.noise.exact and holds)
    inside = value - margin
    noise = 10 ** (-inside / 10) + trial.outside
    if not math.isfinite(noise):
        return Standing(value, met=False, inside=inside)
    bound = inside if trial.outside == 0 else -10 * math.log10(noise)
    return Standing(value, bound >= asked and holds, value - bound, bound, inside)
