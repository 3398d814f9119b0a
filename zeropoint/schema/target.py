"""An accuracy target in place of settings: the engine chooses how to reach it. Torch-free."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from zeropoint.schema.frozen import Frozen, refusal

MetricName = Literal["top1", "top5", "agreement", "cosine"]
"""Shares or similarities, where 1 is best. top1 and top5 need `labels` in the evaluation dataset, cosine needs
`references`, agreement neither."""


class MaxDrop(Frozen):
    """How far a metric may fall below the float model's, as a difference: 0.01 is one percentage point."""

    metric: MetricName
    value: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


class AccuracyTarget(Frozen):
    """One of three: at least this SQNR in dB; at most this drop; the most accurate result of at most this size."""

    min_sqnr_db: Annotated[float, Field(ge=-100, le=400, allow_inf_nan=False)] | None = None
    max_drop: MaxDrop | None = None
    max_bytes: Annotated[int, Field(ge=1)] | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        if len([wish for wish in (self.min_sqnr_db, self.max_drop, self.max_bytes) if wish is not None]) != 1:
            raise refusal("a target has exactly one of min_sqnr_db, max_drop and max_bytes")
        return self
