"""A target in place of settings: what the result must reach, and the engine chooses how. Torch-free."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from zeropoint.schema.frozen import Frozen, refusal

MetricName = Literal["top1", "top5", "agreement", "cosine"]
"""All are shares or similarities: 1 is the best. top1 and top5 need `labels` in the evaluation dataset, cosine
`references`, agreement neither."""


class MaxDrop(Frozen):
    """How much lower than the float model's a metric may be, as a difference: 0.01 is one percentage point."""

    metric: MetricName
    value: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


class AccuracyTarget(Frozen):
    """One of: at least so many dB; at most such a drop; the most accurate within so many bytes of stored tensors."""

    min_sqnr_db: Annotated[float, Field(ge=-100, le=400, allow_inf_nan=False)] | None = None
    max_drop: MaxDrop | None = None
    max_bytes: Annotated[int, Field(ge=1)] | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        if len([wish for wish in (self.min_sqnr_db, self.max_drop, self.max_bytes) if wish is not None]) != 1:
            raise refusal("a target has exactly one of min_sqnr_db, max_drop and max_bytes")
        return self
