"""Observers: each collects statistics of what it is shown and chooses a range. `affine` alone makes a grid of it.

To add one: a settings class in `recipe`, a file here, one `case` below (mypy points at what is missing).
"""

from typing import Protocol

from torch import Tensor

from quantization.observers.minmax import MinMax
from quantization.recipe import MinMaxObserver


class Observer(Protocol):
    """Collect over any number of tensors, then decide."""

    def observe(self, values: Tensor) -> None:
        """Take a float tensor into the statistics."""

    def range(self) -> tuple[Tensor, Tensor]:
        """The chosen minimum and maximum, float32 [C] or []. Raises ValueError when nothing was observed."""


def observer_for(settings: MinMaxObserver, axis: int | None = None) -> Observer:
    """The observer that a recipe asks for; `axis` keeps one range per index of that dimension."""
    match settings:
        case MinMaxObserver():
            return MinMax(axis)
