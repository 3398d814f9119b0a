"""Goals: a target that can be asked of layers as they are now."""

from collections.abc import Callable
from dataclasses import dataclass

from quantization.algorithms.bench import Layers
from quantization.improving import Improved
from quantization.layers import Quantized
from quantization.recipe import Recipe
from quantization.report import NOT_CALIBRATED, TargetReport
from quantization.sources.source import Source
from quantization.sqnr import finite
from quantization.target import Target

MARGIN_DB = 0.3
"""What the gate must show above a wished SQNR: other samples of the same kind differ by so much (docs/accuracy.md)."""


@dataclass(frozen=True)
class Goal:
    """What is asked, and how it is measured. `drop_of`: how much lower the metric of these layers is than the float
    model's."""

    asked: Target
    source: Source
    drop_of: Callable[[Layers], float] | None = None

    @property
    def sqnr_db(self) -> float | None:
        """What the gate must show, in dB; None when the goal is another."""
        return None if self.asked.min_sqnr_db is None else self.asked.min_sqnr_db + MARGIN_DB

    @property
    def bytes_asked(self) -> int | None:
        return self.asked.max_bytes

    def met(self, now: Improved) -> bool:
        """Whether these layers do."""
        if self.sqnr_db is not None:
            return now.noise.noise <= now.noise.signal / 10 ** (self.sqnr_db / 10)
        value = self.value(now)
        bound = self.bytes_asked if self.asked.max_drop is None else self.asked.max_drop.value
        return value is not None and bound is not None and value <= bound

    def value(self, now: Improved) -> float | None:
        """What these layers reach, in the unit of the target; None: exact, or not a number."""
        if self.asked.min_sqnr_db is not None:
            return finite(now.noise.db)
        if self.bytes_asked is not None:
            return self.bytes_of(now.layers)
        return None if self.drop_of is None else self.drop_of(now.layers)

    def bytes_of(self, layers: Layers) -> int:
        """Bytes of everything that would be stored."""
        return Quantized(self.source, Recipe(), list(layers.values()), [], NOT_CALIBRATED, {}).bytes

    def report(self, now: Improved, share: float | None, in_float: int) -> TargetReport:
        """What was asked, and what came of it."""
        met = self.met(now)
        detail = "The target is met" if met else "The target can't be met: this is the best that was found"
        detail += f"; {in_float} of the layers that could be quantized stay in float."
        return TargetReport(
            asked=self.asked,
            met=met,
            value=self.value(now),
            layers_in_float=in_float,
            macs_in_float=share,
            detail=detail,
        )
