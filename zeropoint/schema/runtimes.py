"""What users get of an artifact: a runtime, a processor level, and the numbers there. Torch-free."""

from typing import Literal

from pydantic import BaseModel, ConfigDict

RuntimeName = Literal["torch", "inductor", "onnxruntime", "transformers"]
"""torch: eager. inductor: compiled with freezing, which takes int8 kernels."""

ProcessorLevel = Literal["avx2", "avx512", "avx_vnni", "avx512_vnni", "amx_int8", "asimddp", "i8mm", "other"]
"""The best instructions for integers that kernels may use."""

Basis = Literal["measured", "modelled", "skipped"]
"""measured: the runtime ran it at this level. modelled: its sums were computed as its kernels do. skipped: neither."""


class Latency(BaseModel):
    """How long a call takes in one thread, and one of the float program; both were called alternately."""

    model_config = ConfigDict(use_attribute_docstrings=True, frozen=True, extra="forbid", allow_inf_nan=False)

    ms: float | None = None
    """Milliseconds per call: the median over the rounds. None where it was not measured."""
    ms_quartiles: tuple[float, float] | None = None
    """The lower and the upper quartile."""
    float_ms: float | None = None
    float_ms_quartiles: tuple[float, float] | None = None
    rounds: int = 0
    """How many calls of each were measured; fewer than usual where one takes long."""
    batch_size: int = 0
    """Samples in a call."""
    processor: str
    """The model of this worker's processor, and what it has for integers."""
    reason: str | None = None
    """Why a number is missing."""


class RuntimeReport(BaseModel):
    """The numbers of one artifact in one runtime at one processor level, against the float model."""

    model_config = ConfigDict(use_attribute_docstrings=True, frozen=True, extra="forbid", allow_inf_nan=False)

    artifact: str
    runtime: RuntimeName
    version: str
    """Of the runtime's library."""
    level: ProcessorLevel
    basis: Basis
    sqnr_db: float | None = None
    """Over the floating outputs, as `summary.sqnr_db`; None if they are equal (`exact`), or nothing was run."""
    exact: bool = False
    agreement: float | None = None
    """The lowest share of equal elements of an integer or bool output."""
    loss_db: float | None = None
    """By how much it is below the saved program's own SQNR on the same samples; negative if it is above."""
    samples: int = 0
    counts: bool = True
    """Whether the verdict depends on it; not at levels that the recipe's `target_isa` leaves out."""
    reason: str | None = None
    """Why it was not measured, or doesn't count."""
    latency: Latency | None = None
    """None unless the recipe asks for it, and in rows that were not measured at the worker's own level."""
