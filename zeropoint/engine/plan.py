"""Planning: decide what will be done from the recipe, the layers and the number of samples alone."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from zeropoint.calibration.profile import Profile
from zeropoint.data.batches import Batches, Samples
from zeropoint.errors import InvalidRecipe, InvalidSamples
from zeropoint.layers.quantized_layer import QuantizedLayer
from zeropoint.layers.selection import Choice, select
from zeropoint.model.source import Source
from zeropoint.schema.recipe import DEFAULT_CALIBRATION_SAMPLES, Recipe
from zeropoint.schema.report import EvaluationReport, EvaluationSource, SkippedLayer

MAX_HELD_OUT_SAMPLES = 256
"""Most samples held out of calibration for evaluation; a given evaluation dataset is always used whole."""


@dataclass(frozen=True)
class EvaluationSamples:
    """The samples to evaluate on, and where they come from."""

    source: EvaluationSource = "none"
    batches: Batches | None = None

    @property
    def independent(self) -> Batches | None:
        """Return the samples if they are others than those that calibrate."""
        return self.batches if self.source in ("evaluation_dataset", "held_out") else None

    @property
    def report(self) -> EvaluationReport:
        """Return their entry in the report; for a stream, only after it was read."""
        return EvaluationReport(source=self.source, samples=0 if self.batches is None else self.batches.count)


@dataclass(frozen=True)
class QuantizationPlan:
    """What will be done, decided from the recipe, the layers and the sample count alone."""

    choices: list[Choice]
    skipped: list[SkippedLayer]
    calibration: Batches | None
    held_out: Samples | None
    acceptance: Batches | None = None
    """A quarter of the samples, held out of calibration, to decide which algorithms are kept."""
    evaluation: EvaluationSamples = EvaluationSamples()
    known: Mapping[str, QuantizedLayer] = field(default_factory=dict)
    """Layer -> a layer quantized before with the same weight settings, to be reused with other input qparams."""
    undivided: Samples | None = None
    """The calibration and the acceptance samples together, where they are different ones."""


def plan(
    source: Source, recipe: Recipe, samples: Samples | None, evaluation: Batches | None = None
) -> QuantizationPlan:
    """Choose layers, and split samples into those for calibration, acceptance and evaluation.

    `evaluation`: a dataset to evaluate on; if there is one, no sample is held out for that.
    Raises InvalidRecipe, or InvalidSamples when the recipe needs samples and there are none.
    """
    choices, skipped = select(source.layers, recipe)
    static = any(choice.activations is not None for choice in choices)
    if samples is None and (static or recipe.searches or recipe.sensitivity):
        raise InvalidSamples(
            "dataset_required",
            "Static activation ranges and what algorithms decide come from samples, and there are none.",
            'Give a dataset (calibration_data in Python), or a recipe with "activations": null and no algorithms.',
        )
    if samples is None:
        return QuantizationPlan(choices, skipped, None, None, evaluation=choose_evaluation(evaluation, None, None))
    calibration, held_out = split(samples, recipe.calibration.samples, keep_out=evaluation is None)
    chosen = choose_evaluation(evaluation, held_out, samples)
    if not recipe.searches:
        return QuantizationPlan(choices, skipped, calibration, held_out, None, chosen)
    whole, (calibration, acceptance) = calibration, _keep_acceptance(calibration)
    undivided = whole if calibration is not acceptance else None
    return QuantizationPlan(choices, skipped, calibration, held_out, acceptance, chosen, undivided=undivided)


def choose_evaluation(
    evaluation: Batches | None, held_out: Samples | None, calibration: Samples | None
) -> EvaluationSamples:
    """Choose the evaluation dataset, else samples held out of calibration, else the calibration samples, else none."""
    if evaluation is not None:
        return EvaluationSamples("evaluation_dataset", evaluation)
    if held_out is not None:
        return EvaluationSamples("held_out", held_out.first(MAX_HELD_OUT_SAMPLES))
    return EvaluationSamples("none" if calibration is None else "calibration_samples", calibration)


def most_samples(recipe: Recipe, smallest_batch: int, *, keep_out: bool) -> int:
    """Return how many samples `plan` uses at most; further samples don't change the plan."""
    calibrating = max(recipe.calibration.samples or DEFAULT_CALIBRATION_SAMPLES, smallest_batch)
    return calibrating + (max(MAX_HELD_OUT_SAMPLES, smallest_batch) if keep_out else 0)


def split(samples: Samples, calibrating: int | None, *, keep_out: bool = True) -> tuple[Samples, Samples | None]:
    """Return the samples to calibrate with, and those held out for evaluation (None when nothing is left).

    `calibrating`: how many the recipe asks for. None: at most DEFAULT_CALIBRATION_SAMPLES, and with `keep_out` the last
    quarter is held out if there are eight samples or more.
    """
    rows = samples.stop
    if calibrating is None:
        calibrating = min(DEFAULT_CALIBRATION_SAMPLES, rows - rows // 4 if keep_out and rows >= 8 else rows)
    cut = min(max(calibrating, samples.smallest_batch), rows)
    rest = samples.between(cut, rows)
    return samples.between(0, cut), rest if len(rest) else None


def _keep_acceptance(calibration: Samples) -> tuple[Samples, Samples]:
    """Return calibration samples and, as acceptance samples, the last quarter; if too few to split, both are all."""
    quarter = max(calibration.count // 4, calibration.smallest_batch)
    cut = calibration.stop - quarter
    acceptance = calibration.between(cut, calibration.stop)
    if cut - calibration.start < max(quarter, 1) or not len(acceptance):
        return calibration, calibration
    return calibration.between(calibration.start, cut), acceptance


def without_idle(planned: QuantizationPlan, profile: Profile) -> QuantizationPlan:
    """Return the plan without layers that no calibration sample reached; without a range, they stay in float.

    Raises InvalidRecipe when nothing is left.
    """
    idle = {c.layer.name for c in planned.choices if c.activations is not None} - set(profile.layers)
    choices = [choice for choice in planned.choices if choice.layer.name not in idle]
    if not choices:
        raise InvalidRecipe(
            "nothing_to_quantize",
            "The recipe leaves every layer in float: never_ran.",
            "Give calibration samples that reach the selected layers.",
        )
    layers = [choice.layer for choice in planned.choices if choice.layer.name in idle]
    skipped = [SkippedLayer(name=layer.name, type=layer.type, reason="never_ran") for layer in layers]
    return replace(planned, choices=choices, skipped=[*planned.skipped, *skipped])
