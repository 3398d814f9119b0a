"""Grids that took a search, kept in chunks: each checkpoint `grids-0001`, `grids-0002`, … holds those since the last.

For a stream of weights, whose numbers are nowhere as a whole: with its grid known, to lay a weight on it again takes
hardly longer than to read it. So does a min-max range, and neither that nor a cast is kept.
"""

from collections.abc import Sequence

from quantization.affine import Affine, grid_for
from quantization.checkpoints import Checkpoints, State, Tensors
from quantization.recipe import CASTS, WeightSettings
from quantization.selection import Choice

PREFIX = "grids-"


class KeptGrids:
    """The grids of `choices`, which are taken in their order: one chunk of them is in memory."""

    def __init__(self, checkpoints: Checkpoints, choices: Sequence[Choice]) -> None:
        self._checkpoints = checkpoints
        self._choices = {choice.layer.name: choice for choice in choices}
        self._new: dict[str, Affine] = {}
        self._found: dict[str, Affine] = {}
        checkpoints.begin()
        self._chunks = [name for name in checkpoints.names(PREFIX) if name.removeprefix(PREFIX).isdecimal()]
        self._last = int(self._chunks[-1].removeprefix(PREFIX)) if self._chunks else 0

    def take(self, name: str) -> Affine | None:
        """The grid that an earlier attempt found for a layer; None when there is none."""
        while self._chunks and not self._found:
            self._found = self._checkpoints.load(self._chunks.pop(0), self._read) or {}
        affine = self._found.pop(name, None)
        if affine is not None and "quantizing" not in self._checkpoints.resumed:
            self._checkpoints.resumed.append("quantizing")
        return affine

    def add(self, name: str, affine: Affine) -> None:
        """Take a grid in that was found now."""
        if is_searched(self._choices[name].weights):
            self._new[name] = affine
        if self._checkpoints.due:
            self._keep()

    def close(self) -> None:
        """All are found; what a long phase has not kept yet is kept now."""
        if self._checkpoints.long:
            self._keep()

    def _keep(self) -> None:
        if not self._new:
            return
        self._last += 1
        state = {"layers": {name: [affine.axis, affine.group_size] for name, affine in self._new.items()}}
        tensors = {f"{name}.scale": affine.scale for name, affine in self._new.items()}
        tensors |= {f"{name}.zero_point": affine.zero_point for name, affine in self._new.items()}
        self._checkpoints.save(f"{PREFIX}{self._last:04}", state, tensors)
        self._new = {}

    def _read(self, state: State, tensors: Tensors) -> dict[str, Affine]:
        """Raises KeyError when the chunk is of other layers."""
        found = {}
        for name, (axis, group_size) in state["layers"].items():
            grid = grid_for(self._choices[name].weights.dtype, self._choices[name].weights.scheme)
            found[name] = Affine(grid, tensors[f"{name}.scale"], tensors[f"{name}.zero_point"], axis, group_size)
        return found


def is_searched(settings: WeightSettings) -> bool:
    """Whether to find a weight's grid takes much longer than to read the weight."""
    return settings.dtype not in CASTS and settings.observer.kind != "minmax"
