"""Min-max: the range is the smallest and the largest value seen. No tensor is kept."""

import torch
from torch import Tensor


class MinMax:
    """Running extremes: float32 [C] with an axis, [] without. NaN, once seen, stays (the engine refuses it by name)."""

    def __init__(self, axis: int | None = None) -> None:
        self._axis = axis
        self._range: tuple[Tensor, Tensor] | None = None

    def observe(self, values: Tensor) -> None:
        rows = values.reshape(-1) if self._axis is None else values.movedim(self._axis, 0).flatten(1)
        low, high = (extreme.to(torch.float32) for extreme in torch.aminmax(rows, dim=-1))
        if self._range is not None:
            low, high = torch.minimum(low, self._range[0]), torch.maximum(high, self._range[1])
        self._range = low, high

    def range(self) -> tuple[Tensor, Tensor]:
        if self._range is None:
            raise ValueError("nothing was observed")
        return self._range
