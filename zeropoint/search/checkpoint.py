"""A search that is left in the middle: the checkpoint `search` holds the layers as the last piece left them.

A piece that was tried is not tried again; the next one finds the same layers, and so the result has the same bytes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from pydantic import TypeAdapter
from torch import Tensor

from zeropoint.files.checkpoints import Checkpoints, State, Tensors
from zeropoint.layers.checkpoints import layer_state, layer_tensors, restored
from zeropoint.layers.quantized_layer import Activation, QuantizedLayer
from zeropoint.layers.selection import Choice
from zeropoint.metrics.sqnr import Noise
from zeropoint.primitives.qparams import QParams, quant_type_for
from zeropoint.schema.algorithms import AlgorithmSettings
from zeropoint.schema.report import AlgorithmReport
from zeropoint.search.trial import Candidate

NAME = "search"
_ALGORITHMS: TypeAdapter[tuple[AlgorithmSettings, ...]] = TypeAdapter(tuple[AlgorithmSettings, ...])


class KeptSearch:
    """The checkpoint of a search among these layers, which are as quantization to nearest left them."""

    def __init__(self, checkpoints: Checkpoints, layers: Sequence[QuantizedLayer]) -> None:
        self._checkpoints = checkpoints
        self._plain = {layer.layer.name: layer for layer in layers}
        checkpoints.begin()

    def found(self) -> tuple[int, Candidate] | None:
        """How many pieces were tried, and what came of them; None when there is no checkpoint that serves."""
        found = self._checkpoints.load(NAME, self._read)
        if found is not None and "quantizing" not in self._checkpoints.resumed:
            self._checkpoints.resumed.append("quantizing")
        return found

    def keep(self, done: int, candidate: Candidate) -> None:
        """So many pieces were tried; it is written when that is worth its while."""
        if not self._checkpoints.due:
            return
        state: dict[str, Any] = {
            "done": done,
            "noise": [candidate.noise.signal.hex(), candidate.noise.noise.hex()],
            "steps": [step.model_dump(mode="json") for step in candidate.steps],
            "tried": _ALGORITHMS.dump_python(candidate.tried, mode="json"),
            "layers": {name: _state(layer) for name, layer in candidate.layers.items()},
        }
        gridded = {name: layer for name, layer in candidate.layers.items() if layer.qparams is not None}
        tensors = {f"{name}.{part}": t for name, layer in gridded.items() for part, t in _tensors(layer).items()}
        self._checkpoints.save(NAME, state, tensors)

    def _read(self, state: State, tensors: Tensors) -> tuple[int, Candidate]:
        """Raises KeyError or ValueError when it is of other layers."""
        signal, noise = (float.fromhex(number) for number in state["noise"])
        layers = {name: self._layer(name, said, tensors) for name, said in state["layers"].items()}
        steps = tuple(AlgorithmReport.model_validate(step) for step in state["steps"])
        return state["done"], Candidate(
            layers, Noise(signal, noise), steps, _ALGORITHMS.validate_python(state["tried"])
        )

    def _layer(self, name: str, said: State | None, tensors: Tensors) -> QuantizedLayer:
        plain = self._plain[name]
        if said is None:
            return plain
        own = {part: tensors[f"{name}.{part}"] for part in said["parts"]}
        choice = Choice(plain.layer, plain.settings, None if plain.activation is None else plain.activation.settings)
        layer = restored(choice, said, own)
        return replace(layer, activation=_activation(plain, said["range"], own))


def _tensors(layer: QuantizedLayer) -> dict[str, Tensor]:
    grid = {} if layer.activation is None else {"input_scale": layer.activation.qparams.scale}
    return layer_tensors(layer) | grid


def _state(layer: QuantizedLayer) -> Mapping[str, Any] | None:
    """None for a cast, which is as it was."""
    if layer.qparams is None:
        return None
    activation = layer.activation
    spans = None
    if activation is not None:
        spans = [activation.minimum.hex(), activation.maximum.hex(), int(activation.qparams.zero_point)]
    return {**layer_state(layer), "parts": [*_tensors(layer)], "range": spans}


def _activation(plain: QuantizedLayer, spans: Sequence[Any] | None, tensors: Tensors) -> Activation | None:
    if spans is None or plain.activation is None:
        return None
    settings = plain.activation.settings
    zero_point = torch.tensor(spans[2], dtype=torch.int64)
    qparams = QParams(quant_type_for(settings.dtype, settings.scheme), tensors["input_scale"], zero_point)
    return Activation(settings, qparams, float.fromhex(spans[0]), float.fromhex(spans[1]))
