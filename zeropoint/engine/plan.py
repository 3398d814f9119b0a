"""Planning: what will be done, decided from the recipe, the layers and the number of samples alone."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from zeropoint.calibration.profile import Profile
from zeropoint.data.batches import Batches
from zeropoint.data.dataset import Dataset
from zeropoint.errors import InvalidRecipe, InvalidSamples
from zeropoint.layers.quantized_layer import QuantizedLayer
from zeropoint.layers.selection import Choice, select
from zeropoint.model.source import Source
from zeropoint.schema.recipe import DEFAULT_CALIBRATION_SAMPLES, Recipe
from zeropoint.schema.report import SkippedLayer


@dataclass(frozen=True)
class QuantizationPlan:
    """What will be done, decided from the recipe, the layers and the sample count alone."""

    choices: list[Choice]
    skipped: list[SkippedLayer]
    calibration: Batches | None
    held_out: Dataset | None
    acceptance: Batches | None = None
    """A quarter of the calibration samples, which calibrate nothing: what algorithms do is judged by them."""
    known: Mapping[str, QuantizedLayer] = field(default_factory=dict)
    """By name, layers whose weights were quantized so before: only the grid of the input is another."""


def plan(source: Source, recipe: Recipe, samples: Dataset | None, *, keep_out: bool = True) -> QuantizationPlan:
    """Choose layers and split samples. `keep_out`: whether some must stay to evaluate on.

    Raises InvalidRecipe, or InvalidSamples when what the recipe asks for needs samples.
    """
    choices, skipped = select(source.layers, recipe)
    static = any(choice.activations is not None for choice in choices)
    if samples is None and (static or recipe.searches):
        raise InvalidSamples(
            "dataset_required",
            "Static activation ranges and what algorithms decide come from samples, and the job has no dataset.",
            'Give the job a dataset, or a recipe with "activations": null and no algorithms.',
        )
    if samples is None:
        return QuantizationPlan(choices, skipped, None, None)
    calibration, held_out = split(samples, recipe.calibration.samples, keep_out=keep_out)
    if not recipe.searches:
        return QuantizationPlan(choices, skipped, calibration, held_out)
    return QuantizationPlan(choices, skipped, *_with_gate(calibration, held_out))


def split(samples: Dataset, wanted: int | None, *, keep_out: bool = True) -> tuple[Dataset, Dataset | None]:
    """Rows to calibrate with, and the rows kept out for evaluation (None when nothing is left).

    Without a wish: at most DEFAULT_CALIBRATION_SAMPLES, and with `keep_out` a quarter of the rows stays out if there
    are eight or more.
    """
    rows = samples.stop
    if wanted is None:
        wanted = min(DEFAULT_CALIBRATION_SAMPLES, rows - rows // 4 if keep_out and rows >= 8 else rows)
    cut = min(max(wanted, samples.smallest_batch), rows)
    rest = samples.between(cut, rows)
    return samples.between(0, cut), rest if len(rest) else None


def _with_gate(calibration: Dataset, held_out: Dataset | None) -> tuple[Dataset, Dataset | None, Dataset]:
    """What calibrates, what evaluates, what decides. With less than two batches of their least size, all is one."""
    quarter = max(calibration.count // 4, calibration.smallest_batch)
    cut = calibration.stop - quarter
    if cut - calibration.start < max(quarter, 1):
        return calibration, held_out, calibration
    return calibration.between(calibration.start, cut), held_out, calibration.between(cut, calibration.stop)


def without_idle(planned: QuantizationPlan, profile: Profile) -> QuantizationPlan:
    """The plan without layers that no calibration sample reached: they have no range, and stay in float.

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
    left = [c.layer for c in planned.choices if c.layer.name in idle]
    skipped = [SkippedLayer(name=layer.name, type=layer.type, reason="never_ran") for layer in left]
    return replace(planned, choices=choices, skipped=[*planned.skipped, *skipped])
