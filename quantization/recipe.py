"""A recipe: the whole request as data. Torch-free, so that the API validates it and the database stores it.

Values are the words of the field and of the HTTP API (qint8, per_channel, minmax); what this version does not do is
not in the types, so a recipe that validates is a recipe that runs. Unknown keys are refused.
"""

from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from quantization.names import matches

DEFAULT_CALIBRATION_SAMPLES = 128
"""Upper bound when a recipe names none: min-max ranges stop moving long before (docs/quantization.md)."""

Name = Annotated[str, StringConstraints(min_length=1, max_length=512)]
Names = Annotated[tuple[Name, ...], Field(max_length=10_000)]


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class MinMaxObserver(Frozen):
    """Range = smallest and largest value seen."""

    kind: Literal["minmax"] = "minmax"


class WeightSettings(Frozen):
    """int8, symmetric (zero_point 0): one scale per output channel (axis 0), or one per tensor."""

    dtype: Literal["qint8"] = "qint8"
    scheme: Literal["symmetric"] = "symmetric"
    granularity: Literal["per_channel", "per_tensor"] = "per_channel"
    axis: Literal[0] = 0
    observer: MinMaxObserver = MinMaxObserver()


class ActivationSettings(Frozen):
    """uint8, asymmetric, one scale and zero_point per tensor, fixed after calibration (static)."""

    dtype: Literal["quint8"] = "quint8"
    scheme: Literal["asymmetric"] = "asymmetric"
    granularity: Literal["per_tensor"] = "per_tensor"
    observer: MinMaxObserver = MinMaxObserver()


class Override(Frozen):
    """Other settings for the layers that `names` match; `weights: null` leaves them in float. First match wins."""

    names: Annotated[Names, Field(min_length=1)]
    weights: WeightSettings | None = WeightSettings()
    activations: ActivationSettings | None = ActivationSettings()


class CalibrationSettings(Frozen):
    """How many samples to calibrate with, and how many go through the model at once; null: decided by the engine."""

    samples: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    batch_size: Annotated[int, Field(ge=1, le=4096)] | None = None


class ValidationSettings(Frozen):
    """Bounds for the checks, and what a failed check does to the job."""

    on_failure: Literal["error", "warn", "ignore"] = "error"
    min_sqnr_db: Annotated[float, Field(ge=-100, le=400, allow_inf_nan=False)] | None = None
    max_size_ratio: Annotated[float, Field(gt=0, le=10, allow_inf_nan=False)] | None = None


class Recipe(Frozen):
    """What to quantize, to which dtype, scheme and granularity, by which observer, with which checks."""

    weights: WeightSettings = WeightSettings()
    activations: ActivationSettings | None = ActivationSettings()
    layer_types: Names = ("Linear", "Conv1d", "Conv2d")
    skip_layers: Names = ("LayerNorm", "Embedding")
    include: Names = ("*",)
    exclude: Names = ()
    overrides: Annotated[tuple[Override, ...], Field(max_length=1000)] = ()
    calibration: CalibrationSettings = CalibrationSettings()
    validation: ValidationSettings = ValidationSettings()
    formats: tuple[Literal["safetensors", "pt2"], ...] | None = None
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0

    @property
    def needs_dataset(self) -> bool:
        """Activation ranges come from samples; weight ranges come from the weights."""
        return self.activations is not None or any(o.activations is not None for o in self.overrides)


def unmatched_patterns(recipe: Recipe, names: Iterable[str]) -> list[tuple[str, str]]:
    """Pairs (JSON pointer, pattern) of the recipe's layer patterns that match none of `names`."""
    known = list(names)
    lists = [("/include", recipe.include), ("/exclude", recipe.exclude)]
    lists += [(f"/overrides/{i}/names", override.names) for i, override in enumerate(recipe.overrides)]
    return [
        (f"{pointer}/{position}", pattern)
        for pointer, patterns in lists
        for position, pattern in enumerate(patterns)
        if pattern != "*" and not any(matches(name, [pattern]) for name in known)
    ]
