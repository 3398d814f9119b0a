"""A recipe: the whole request as data. Torch-free, so that the API can validate it and the database store it.

Values are the field's words and those of the HTTP API (qint8, per_channel, minmax). The types admit only what this
version does, so a valid recipe can run. Unknown keys are refused.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from zeropoint.schema.algorithms import NEEDS_SAMPLES, AlgorithmSettings
from zeropoint.schema.frozen import Frozen, refusal
from zeropoint.schema.target import AccuracyTarget

DEFAULT_BATCH_SIZE = 32
DEFAULT_CALIBRATION_SAMPLES = 128
"""Upper bound when a recipe names none: min-max ranges converge long before (docs/explanation/quantization.md)."""

DEFAULT_GROUP_SIZE = 32
CASTS = ("float16", "bfloat16")
WEIGHT_ONLY = (*CASTS, "int4")

WeightDtype = Literal["qint8", "quint8", "float16", "bfloat16", "float8_e4m3", "int4"]
Scheme = Literal["symmetric", "asymmetric"]
FormatName = Literal["safetensors", "pt2", "onnx", "huggingface"]

Name = Annotated[str, StringConstraints(min_length=1, max_length=512)]
Names = Annotated[tuple[Name, ...], Field(max_length=10_000)]


DEFAULT_LAYER_TYPES: tuple[str, ...] = (
    *("Linear", "Conv1d", "Conv2d", "Conv3d"),
    *("ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d"),
    *("LSTM", "GRU", "RNN", "LSTMCell", "GRUCell", "RNNCell", "Matmul", "Bilinear"),
)
"""Every kind of layer that int8 fits: a list in a recipe is exact, this one is not the user's choice."""


class MinMaxObserver(Frozen):
    """Range = smallest and largest value seen."""

    kind: Literal["minmax"] = "minmax"


class PercentileObserver(Frozen):
    """Range = all values except the outermost 100 − `percentile` percent at each end."""

    kind: Literal["percentile"] = "percentile"
    percentile: Annotated[float, Field(gt=50, le=100, allow_inf_nan=False)] = 99.999


class MseObserver(Frozen):
    """Range = the one with the least quantization error on the values seen."""

    kind: Literal["mse"] = "mse"


ObserverSettings = Annotated[MinMaxObserver | PercentileObserver | MseObserver, Field(discriminator="kind")]


class WeightSettings(Frozen):
    """How weights are stored; omitted fields follow from the dtype (see `_fill`).

    qint8, quint8, int4: integers with scales. float8_e4m3: float8 with scales. float16, bfloat16: a cast. `axis` null:
    the layer's output channels. `group_size`: neighbours along the input that share a scale (per_group).
    """

    dtype: WeightDtype = "qint8"
    scheme: Scheme = "symmetric"
    granularity: Literal["per_channel", "per_tensor", "per_group"] = "per_channel"
    axis: Annotated[int, Field(ge=0, le=4)] | None = None
    group_size: Annotated[int, Field(ge=2, le=4096)] | None = None
    observer: ObserverSettings = MinMaxObserver()

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, data: Any) -> Any:
        """Set per_group for int4, and the default group size for per_group."""
        if not isinstance(data, dict):
            return data
        if data.get("dtype") == "int4":
            data = {"granularity": "per_group", **data}
        if data.get("granularity") == "per_group" and data.get("group_size") is None:
            data = {**data, "group_size": DEFAULT_GROUP_SIZE}
        return data

    @model_validator(mode="after")
    def _use_every_level(self) -> Self:
        """Make int4 asymmetric by default (docs/reference/recipe.md); `scheme` stays unset for `defaults`."""
        if self.dtype == "int4" and "scheme" not in self.model_fields_set:
            self.__dict__["scheme"] = "asymmetric"
        return self

    @model_validator(mode="after")
    def _make_sense(self) -> Self:
        plain = WeightSettings.model_construct(dtype=self.dtype)
        if self.dtype in CASTS and self != plain:
            raise refusal(f"{self.dtype} is a cast: it has no scheme, granularity, axis, group_size or observer")
        if self.dtype == "float8_e4m3" and (self.scheme != "symmetric" or self.granularity == "per_group"):
            raise refusal("float8_e4m3 weights are symmetric, per_channel or per_tensor")
        if self.dtype == "int4" and self.granularity != "per_group":
            raise refusal("int4 weights need granularity per_group: sixteen levels are too few for a channel")
        if self.granularity != "per_group" and self.group_size is not None:
            raise refusal("group_size belongs to granularity per_group")
        if self.granularity != "per_channel" and self.axis is not None:
            raise refusal("axis belongs to granularity per_channel")
        return self


class ActivationSettings(Frozen):
    """How a layer's input is quantized: one scale and zero_point per tensor, fixed after calibration (static)."""

    dtype: Literal["quint8", "qint8", "float8_e4m3"] = "quint8"
    scheme: Scheme = "asymmetric"
    granularity: Literal["per_tensor"] = "per_tensor"
    observer: ObserverSettings = MinMaxObserver()

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, data: Any) -> Any:
        """Make float8 symmetric: it has no zero point."""
        if isinstance(data, dict) and data.get("dtype") == "float8_e4m3":
            return {"scheme": "symmetric", **data}
        return data

    @model_validator(mode="after")
    def _make_sense(self) -> Self:
        if self.dtype == "float8_e4m3" and self.scheme != "symmetric":
            raise refusal("float8_e4m3 activations are symmetric")
        if self.dtype == "float8_e4m3" and self.observer.kind == "mse":
            raise refusal("the mse observer needs evenly spaced values, which float8_e4m3 does not have")
        return self


class LayerSettings(Frozen):
    """Settings of weights and activations; omitted activations follow the weights' dtype."""

    weights: WeightSettings | None = WeightSettings()
    activations: ActivationSettings | None = ActivationSettings()

    @model_validator(mode="before")
    @classmethod
    def _follow(cls, data: Any) -> Any:
        if not isinstance(data, dict) or "activations" in data:
            return data
        weights = data.get("weights", {})
        dtype = weights.get("dtype") if isinstance(weights, dict) else getattr(weights, "dtype", "none")
        if dtype == "float8_e4m3":
            return {**data, "activations": {"dtype": dtype}}
        return {**data, "activations": None} if dtype in WEIGHT_ONLY else data

    @model_validator(mode="after")
    def _go_together(self) -> Self:
        if self.weights is None or self.activations is None:
            return self
        dtype = self.weights.dtype
        if dtype in WEIGHT_ONLY:
            raise refusal(f"{dtype} weights are weight-only: set activations to null")
        if (dtype == "float8_e4m3") != (self.activations.dtype == "float8_e4m3"):
            raise refusal("float8_e4m3 weights need float8_e4m3 activations or null, integers need integers or null")
        return self


class Override(LayerSettings):
    """Other settings for the layers that `names` match; `weights: null` leaves them in float. The first match wins."""

    names: Annotated[Names, Field(min_length=1)]


class CalibrationSettings(Frozen):
    """How many samples to calibrate with, and how many per batch; null: the engine decides."""

    samples: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    batch_size: Annotated[int, Field(ge=1, le=4096)] | None = None


class ValidationSettings(Frozen):
    """Bounds for the checks, and what a failed check does to the job."""

    on_failure: Literal["error", "warn", "ignore"] = "error"
    min_sqnr_db: Annotated[float, Field(ge=-100, le=400, allow_inf_nan=False)] | None = None
    max_size_ratio: Annotated[float, Field(gt=0, le=10, allow_inf_nan=False)] | None = None
    warn_below_db: Annotated[float, Field(ge=-100, le=400, allow_inf_nan=False)] | None = 10.0
    """The verdict is "warned" if an output's SQNR is lower: at 10 dB, a tenth of its energy is noise."""
    warn_below_agreement: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] | None = 0.9
    """The verdict is "warned" if a smaller share of an integer or bool output is equal."""
    runtimes: Literal["auto", "compiled", "modelled", "none"] = "auto"
    """How the numbers of runtimes are found. auto: `model.pt2` is compiled if the job is long."""
    latency: bool = False
    """Whether the rows of runtimes say how long a call takes."""

    @model_validator(mode="after")
    def _rows_for_latency(self) -> Self:
        if self.latency and self.runtimes == "none":
            raise refusal('"latency" is part of the rows of runtimes, and "runtimes": "none" asks for none')
        return self


class Recipe(LayerSettings):
    """What to quantize, to which dtype, scheme and granularity, by which observer, with which checks."""

    weights: WeightSettings = WeightSettings()
    layer_types: Names = DEFAULT_LAYER_TYPES
    skip_layers: Names = ("LayerNorm", "Embedding")
    include: Names = ("*",)
    exclude: Names = ()
    overrides: Annotated[tuple[Override, ...], Field(max_length=1000)] = ()
    fallback: Literal["int8"] | None = None
    """What a layer gets whose weight can't be stored as `weights` says, as convolutions in groups: int8 per channel."""
    algorithms: Annotated[tuple[AlgorithmSettings, ...], Field(max_length=20)] = ()
    """Tried in order; an algorithm is kept only if it raises the SQNR on held-out samples."""
    target: AccuracyTarget | None = None
    sensitivity: bool | None = None
    """Whether the report lists what each layer costs; null: if that takes less time than a calibration pass."""
    merge_lora: bool = False
    """Whether low-rank adapters are merged into the linears that they add to, before anything else is done."""
    target_isa: Literal["any", "vnni", "amx"] = "any"
    """Processors that must compute what the report says. any: also those whose kernels add two products in 16 bits."""
    mode: Literal["quantize", "recommend"] = "quantize"
    """recommend: decide everything, write no model, and return the plan as a recipe."""
    calibration: CalibrationSettings = CalibrationSettings()
    validation: ValidationSettings = ValidationSettings()
    formats: tuple[FormatName, ...] | None = None
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0

    @property
    def folds(self) -> bool:
        """Return whether normalizations are folded into the convolutions before them when the model is opened."""
        searched = self.target is not None and not self.algorithms
        return searched or any(algorithm.kind == "fold_normalization" for algorithm in self.algorithms)

    @property
    def needs_outputs(self) -> bool:
        """Return whether a format also quantizes the outputs of convolutions, so that calibration must observe them."""
        return "onnx" in (self.formats or ())

    @property
    def needs_dataset(self) -> bool:
        """Return whether samples are needed: for activation ranges, algorithms or the costs of layers."""
        return bool(self.sensitivity or self.searches) or any(
            settings.weights is not None and settings.activations is not None for settings in (self, *self.overrides)
        )

    @property
    def searches(self) -> bool:
        """Return whether anything is decided by running the quantized model on samples."""
        return self.target is not None or any(a.kind in NEEDS_SAMPLES for a in self.algorithms)
