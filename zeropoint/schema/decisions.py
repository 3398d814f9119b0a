"""The part of a report that says what was decided by running the quantized model. Torch-free."""

from pydantic import BaseModel, ConfigDict, JsonValue

from zeropoint.schema.target import AccuracyTarget


class Decision(BaseModel):
    model_config = ConfigDict(use_attribute_docstrings=True, frozen=True, extra="forbid", allow_inf_nan=False)


class AlgorithmReport(Decision):
    """An algorithm that was tried, with the whole model's SQNR on held-out samples before and after it."""

    algorithm: str
    settings: dict[str, JsonValue]
    layers: int
    """How many layers it changed; 0: none that it applies to."""
    before_db: float | None
    after_db: float | None
    kept: bool
    reason: str


class PairLimitsReport(Decision):
    """Layers whose weights were limited for kernels that add two products in 16 bits, and the cost.

    The SQNRs are those of the whole model on the samples that decide about algorithms, else on calibration samples.
    """

    layers: int
    outputs: int
    """Output channels of these layers whose weights were made smaller or coarser."""
    before_db: float | None
    after_db: float | None


class IntegerOutputsReport(Decision):
    """Convolutions whose results are integers in ONNX files, and by how many dB that lowers the whole model's SQNR."""

    outputs: int
    in_float: list[str]
    """Layers whose results stay float, since integers would cost too much; a runtime computes these layers in float."""
    cost_db: float
    """What each result's rounding adds to the noise, summed, on the samples that `PairLimitsReport` names."""


class TargetReport(Decision):
    """A target and its outcome. `value` is in the target's own unit: dB, a drop or bytes."""

    asked: AccuracyTarget
    met: bool
    value: float | None
    bound: float | None = None
    """What 95 % of fresh sets of samples reach, by a bootstrap over the samples that decided; None for bytes."""
    margin_db: float | None = None
    """For an SQNR: by how many dB `bound` is below what the acceptance samples showed."""
    trials: int | None = None
    """How many candidates were measured for the target."""
    layers_in_float: int
    """Layers that could be quantized but stay in float to meet the target."""
    macs_in_float: float | None
    """Their share of the multiply-accumulates of all layers that could be quantized; None: not known."""
    samples_needed: int | None = None
    """How many samples to give where values outside the static ranges alone leave an SQNR unsure; None otherwise."""
    detail: str


class AcceptanceReport(Decision):
    """The held-out samples on which algorithms were accepted; `sqnr_db` is the result's SQNR on them."""

    samples: int
    sqnr_db: float | None
