"""The kinds of jobs, and how the ids of each begin."""

from enum import StrEnum


class JobKind(StrEnum):
    QUANTIZE = "quantize"
    SWEEP = "sweep"


ID_PREFIXES = {JobKind.QUANTIZE: "job", JobKind.SWEEP: "swp"}
