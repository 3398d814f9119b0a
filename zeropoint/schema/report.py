"""The report: what quantization cost, layer by layer. Torch-free; the API publishes this schema.

SQNR (signal to quantization noise ratio) = 10·log10(Σ float² / Σ (float − quantized)²) in dB. Exact equality has no
finite SQNR: it is `null`, and `exact` is true.
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict

from zeropoint.schema.decisions import (
    AcceptanceReport,
    AlgorithmReport,
    IntegerOutputsReport,
    PairLimitsReport,
    TargetReport,
)
from zeropoint.schema.recipe import Recipe
from zeropoint.schema.runtimes import RuntimeReport
from zeropoint.schema.target import MetricName

Verdict = Literal["passed", "warned", "failed", "not_evaluated"]

SkipReason = Literal[
    "type_not_selected",
    "type_skipped",
    "not_included",
    "excluded",
    "override",
    "unsupported",
    "format_unsupported",
    "shared_weight_conflict",
    "dead_code",
    "folded",
    "granularity_unsupported",
    "group_size_mismatch",
    "never_ran",
    "mixed_precision",
]


ResumedPhase = Literal["calibrating", "quantizing"]

EvaluationSource = Literal["evaluation_dataset", "held_out", "calibration_samples", "none"]


WarningCode = Literal[
    "low_sqnr",
    "low_agreement",
    "single_sample",
    "few_samples_for_target",
    "constant_samples",
    "degenerate_range",
    "uneven_channels",
    "training_mode",
    "not_deterministic",
    "left_in_float",
    "neighbouring_samples",
    "int8_fallback",
    "program_in_place",
    "runtime_below",
]


class Part(BaseModel):
    model_config = ConfigDict(use_attribute_docstrings=True, frozen=True, extra="forbid", allow_inf_nan=False)


class ReportWarning(Part):
    """Something about a result that its checks don't see; a list of layers or outputs holds the worst twenty."""

    code: WarningCode
    level: Literal["warning", "note"] = "warning"
    """A "warning" means that the numbers can't be trusted, or that they are bad: the verdict is then "warned"."""
    detail: str
    remedy: str
    layers: list[str] = []
    outputs: list[str] = []


class FloatShare(Part):
    """Layers that stay in float for one reason, and their shares of the whole model."""

    reason: SkipReason
    layers: int
    weights: float
    """Share of the bytes of all weights of two dimensions or more, 0 to 1."""
    macs: float | None = None
    """Share of the multiply-accumulates with weights, 0 to 1; None if nothing was run."""
    chosen: bool
    """Whether the recipe's own words leave these layers out; such a share doesn't make the verdict "warned"."""


class Summary(Part):
    """The whole model. Sizes are the bytes of all uploaded, and of all stored tensors."""

    sqnr_db: float | None
    exact: bool
    worst_output_db: float | None = None
    """The lowest SQNR of a single floating output that quantization changed."""
    worst_agreement: float | None = None
    """The lowest share of equal elements of an integer or bool output."""
    cosine: float | None = None
    """Cosine similarity of the floating outputs of the float and the saved model: 1 is the same direction."""
    weights_in_float: float | None = None
    """Share of the bytes of all weights that stay in float, 0 to 1; normalizations and biases don't count."""
    macs_in_float: float | None = None
    """Share of the multiply-accumulates with weights that stay in float, 0 to 1; None if nothing was run."""
    in_float: list[FloatShare] = []
    """These shares by reason, largest first."""
    original_bytes: int
    quantized_bytes: int
    compression_ratio: float
    dead_bytes: int
    """Bytes of uploaded tensors that no output depends on; counted in `original_bytes`, and not stored."""
    layers_quantized: int
    layers_skipped: int


class OutputReport(Part):
    """One output of the model: its name or position, and how it compares with the float model's."""

    name: str
    dtype: str
    sqnr_db: float | None = None
    """Of a floating output; None where it is equal or not finite."""
    agreement: float | None = None
    """The share of equal elements of an integer or bool output, 0 to 1."""
    exact: bool


class Check(Part):
    """One validation check: `value` and `bound` in its own unit; `detail` describes the finding."""

    name: Literal["sqnr", "size", "load_and_run", "weight_range"]
    passed: bool
    value: float | None = None
    bound: float | None = None
    detail: str


class WeightReport(Part):
    """How a layer's weight is stored."""

    dtype: str
    scheme: str
    granularity: str
    axis: int | None
    shape: list[int]


class ActivationReport(Part):
    """How a layer's input is quantized: q = clamp(round(x / scale) + zero_point, 0, 255)."""

    dtype: str
    scheme: str
    scale: float
    zero_point: int
    minimum: float
    maximum: float


class LayerReport(Part):
    """One quantized layer. `output_sqnr_db` compares its float and quantized output on the same float input."""

    name: str
    type: str
    weight: WeightReport
    activation: ActivationReport | None
    weight_sqnr_db: float | None
    output_sqnr_db: float | None
    saturation: float | None = None
    """Share of input values on the evaluation samples that are outside the static range, and so are clamped."""
    limited_outputs: int | None = None
    """Output channels whose weights are smaller or coarser, so that two products fit in 16 bits; None: not known."""
    sensitivity_db: float | None = None
    """Predicted SQNR of the whole model if only this layer were quantized; None if that isn't known."""
    excluding_gains_db: float | None = None
    """By how much the whole model's SQNR would rise if this layer stayed in float; layers are sorted by it."""
    excluding_adds_bytes: int | None = None
    """How many more bytes it would take."""
    excluding: str | None = None
    """The same in words."""
    original_bytes: int
    quantized_bytes: int


class SkippedLayer(Part):
    """A layer that stays in float, and the reason."""

    name: str
    type: str
    reason: SkipReason
    weights: float | None = None
    """Its share of the bytes of all weights, 0 to 1."""
    macs: float | None = None
    """Its share of the multiply-accumulates with weights, 0 to 1."""


class CalibrationReport(Part):
    """The basis of the activation ranges. `reused`: a profile, no forward pass; `warnings`: weak statistics."""

    samples: int
    batches: int
    batch_size: int
    passes: int
    reused: bool
    warnings: list[str] = []


NOT_CALIBRATED = CalibrationReport(samples=0, batches=0, batch_size=0, passes=0, reused=False)


class EvaluationReport(Part):
    """The samples on which SQNR was measured."""

    source: EvaluationSource
    samples: int


class MetricReport(Part):
    """A metric of both models on the evaluation samples, where 1 is best; `drop` = float value − quantized value."""

    name: MetricName
    float_value: float | None
    value: float | None
    drop: float | None


class Loaded(Part):
    """A saved file that the load-back check opened in a fresh process, and the software that opened it."""

    name: str
    loader: str
    version: str
    sqnr_db: float | None = None
    """The file's own SQNR, if it was run in addition to the file that `summary.sqnr_db` describes."""
    outputs: list[OutputReport] = []
    """The file's own outputs, likewise."""


class Report(Part):
    """Everything that is known about a result."""

    verdict: Verdict
    summary: Summary
    checks: list[Check]
    warnings: list[ReportWarning] = []
    outputs: list[OutputReport] = []
    layers: list[LayerReport]
    skipped: list[SkippedLayer]
    calibration: CalibrationReport
    evaluation: EvaluationReport
    gate: AcceptanceReport | None = None
    algorithms: list[AlgorithmReport] = []
    pair_limits: PairLimitsReport | None = None
    """None: no sum of two products can pass 16 bits, or the recipe names processors that add them in 32."""
    integer_outputs: IntegerOutputsReport | None = None
    """None: no ONNX file is asked for, or no result of a convolution is rounded for its sake."""
    target: TargetReport | None = None
    recommendation: Recipe | None = None
    """The decisions as a recipe to edit and run; in mode "recommend" it is the only result."""
    metrics: list[MetricReport] = []
    timings: dict[str, float]
    peak_memory_bytes: int
    loaded: list[Loaded] = []
    runtimes: list[RuntimeReport] = []
    """What users get of each artifact, by runtime and processor level."""
    resumed: list[ResumedPhase] = []
    """Phases resumed from a checkpoint of an earlier attempt; `timings` cover only the last attempt."""
    recipe: Recipe
    versions: dict[str, str]
