"""Layers that are finished, kept in chunks: each checkpoint `layers-0001`, `layers-0002`, … holds those since the last.

It serves any algorithm that works layer by layer, and costs what the layers weigh once, however long it takes. One
whose layers depend on those before finds these in `found`, and goes on behind them.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from zeropoint.files.checkpoints import Checkpoints, State, Tensors
from zeropoint.layers.quantized_layer import Activation, Outliers, QuantizedLayer
from zeropoint.layers.selection import Choice
from zeropoint.primitives.qparams import QParams, quant_type_for
from zeropoint.schema.recipe import CASTS, WeightSettings

GRIDS_PREFIX = "grids-"


class KeptGrids:
    """The grids of `choices`, which are taken in their order: one chunk of them is in memory."""

    def __init__(self, checkpoints: Checkpoints, choices: Sequence[Choice]) -> None:
        self._checkpoints = checkpoints
        self._choices = {choice.layer.name: choice for choice in choices}
        self._new: dict[str, QParams] = {}
        self._found: dict[str, QParams] = {}
        checkpoints.begin()
        self._chunks = [name for name in checkpoints.names(GRIDS_PREFIX) if name.removeprefix(GRIDS_PREFIX).isdecimal()]
        self._last = int(self._chunks[-1].removeprefix(GRIDS_PREFIX)) if self._chunks else 0

    def take(self, name: str) -> QParams | None:
        """The grid that an earlier attempt found for a layer; None when there is none."""
        while self._chunks and not self._found:
            self._found = self._checkpoints.load(self._chunks.pop(0), self._read) or {}
        qparams = self._found.pop(name, None)
        if qparams is not None and "quantizing" not in self._checkpoints.resumed:
            self._checkpoints.resumed.append("quantizing")
        return qparams

    def add(self, name: str, qparams: QParams) -> None:
        """Take a grid in that was found now."""
        if is_searched(self._choices[name].weights):
            self._new[name] = qparams
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
        state = {"layers": {name: [qparams.axis, qparams.group_size] for name, qparams in self._new.items()}}
        tensors = {f"{name}.scale": qparams.scale for name, qparams in self._new.items()}
        tensors |= {f"{name}.zero_point": qparams.zero_point for name, qparams in self._new.items()}
        self._checkpoints.save(f"{GRIDS_PREFIX}{self._last:04}", state, tensors)
        self._new = {}

    def _read(self, state: State, tensors: Tensors) -> dict[str, QParams]:
        """Raises KeyError when the chunk is of other layers."""
        found = {}
        for name, (axis, group_size) in state["layers"].items():
            grid = quant_type_for(self._choices[name].weights.dtype, self._choices[name].weights.scheme)
            found[name] = QParams(grid, tensors[f"{name}.scale"], tensors[f"{name}.zero_point"], axis, group_size)
        return found


def is_searched(settings: WeightSettings) -> bool:
    """Whether to find a weight's grid takes much longer than to read the weight."""
    return settings.dtype not in CASTS and settings.observer.kind != "minmax"


def layer_tensors(layer: QuantizedLayer) -> dict[str, Tensor]:
    """Its tensors, by what they are."""
    assert layer.qparams is not None
    outliers = layer.outliers
    parts = {
        "numbers": layer.weight,
        "scale": layer.qparams.scale,
        "zero_point": layer.qparams.zero_point,
        "bias": layer.bias,
        "pre_quant_scale": layer.pre_quant_scale,
        "outlier_channels": None if outliers is None else outliers.channels,
        "outlier_weight": None if outliers is None else outliers.weight,
    }
    return {part: tensor.contiguous() for part, tensor in parts.items() if tensor is not None}


def layer_state(layer: QuantizedLayer) -> dict[str, Any]:
    """`stride`: the program's file keeps it; SQNR in hexadecimal, which has words for infinity and NaN too."""
    assert layer.qparams is not None
    return {
        "parts": [*layer_tensors(layer)],
        "scaled_by": layer.scaled_by,
        "rounding": layer.rounding,
        "stride": list(layer.weight.stride()),
        "axis": layer.qparams.axis,
        "group_size": layer.qparams.group_size,
        "weight_sqnr_db": None if layer.weight_sqnr_db is None else layer.weight_sqnr_db.hex(),
    }


def restored(choice: Choice, said: State, tensors: Tensors) -> QuantizedLayer:
    """The layer, without the grid of its input. Raises KeyError or ValueError when it is of another weight."""
    numbers, grid = tensors["numbers"], quant_type_for(choice.weights.dtype, choice.weights.scheme)
    if numbers.shape != choice.layer.weight.shape or numbers.dtype != grid.dtype:
        raise ValueError("it is of another weight")
    weight = torch.empty_strided(numbers.shape, said["stride"], dtype=numbers.dtype).copy_(numbers)
    qparams = QParams(grid, tensors["scale"], tensors["zero_point"], said["axis"], said["group_size"])
    db = said["weight_sqnr_db"]
    return QuantizedLayer(
        choice.layer,
        choice.weights,
        weight,
        qparams,
        activation=None,
        weight_sqnr_db=None if db is None else float.fromhex(db),
        bias=tensors.get("bias"),
        pre_quant_scale=tensors.get("pre_quant_scale"),
        scaled_by=said["scaled_by"],
        outliers=_outliers(tensors),
        rounding=said["rounding"],
    )


def _outliers(tensors: Tensors) -> Outliers | None:
    found = "outlier_channels" in tensors
    return Outliers(tensors["outlier_channels"], tensors["outlier_weight"]) if found else None


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
        if layer.qparams is not None:
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
