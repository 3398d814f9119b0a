"""Layers that are finished, kept in chunks: each checkpoint `layers-0001`, `layers-0002`, … holds those since the last.

It serves any algorithm that works layer by layer, and costs what the layers weigh once, however long it takes. One
whose layers depend on those before finds these in `found`, and goes on behind them.
"""

from collections.abc import Sequence
from dataclasses import replace

from quantization.checkpoints import Checkpoints, State, Tensors
from quantization.layer_state import layer_state, layer_tensors, restored
from quantization.layers import Activation, QuantizedLayer
from quantization.selection import Choice

PREFIX = "layers-"


class FinishedLayers:
    """The finished layers among `choices`. Casts are not kept: to make one again takes no longer than to read it."""

    def __init__(self, checkpoints: Checkpoints, choices: Sequence[Choice]) -> None:
        self._checkpoints = checkpoints
        self._choices = {choice.layer.name: choice for choice in choices}
        self._new: list[QuantizedLayer] = []
        self._chunks = 0
        self.found: dict[str, QuantizedLayer] = {}
        """By name, what an earlier attempt finished; without activations, which come from the statistics."""
        checkpoints.begin()
        for name in checkpoints.names(PREFIX):
            self._chunks = max(self._chunks, _number(name))
            self.found |= checkpoints.load(name, self._read) or {}
        if self.found:
            checkpoints.resumed.append("quantizing")

    def take(self, name: str, activation: Activation | None) -> QuantizedLayer | None:
        """A layer as it was finished, with this grid of its input; None when it was not."""
        return replace(self.found[name], activation=activation) if name in self.found else None

    def add(self, layer: QuantizedLayer) -> None:
        """Take a layer in that was finished now."""
        if layer.affine is not None:
            self._new.append(layer)
        if self._checkpoints.due:
            self._keep()

    def close(self) -> None:
        """All are finished; what a long phase has not kept yet is kept now."""
        if self._checkpoints.long:
            self._keep()

    def _keep(self) -> None:
        if not self._new:
            return
        self._chunks += 1
        state = {"layers": {layer.layer.name: layer_state(layer) for layer in self._new}}
        tensors = {f"{layer.layer.name}.{part}": t for layer in self._new for part, t in layer_tensors(layer).items()}
        self._checkpoints.save(f"{PREFIX}{self._chunks:04}", state, tensors)
        self._new = []

    def _read(self, state: State, tensors: Tensors) -> dict[str, QuantizedLayer]:
        """Raises KeyError or ValueError when the chunk is of other layers."""
        return {
            name: restored(self._choices[name], said, {part: tensors[f"{name}.{part}"] for part in said["parts"]})
            for name, said in state["layers"].items()
        }


def _number(name: str) -> int:
    digits = name.removeprefix(PREFIX)
    return int(digits) if digits.isdecimal() else 0
