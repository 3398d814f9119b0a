"""The checkpoint of an interrupted search: `search` holds the layers after the last algorithm that was tried.

A resumed search tries only the remaining algorithms, on the same layers, so the result has the same bytes.
"""

from collections.abc import Sequence
from typing import Any

from pydantic import TypeAdapter

from zeropoint.files.checkpoints import Checkpoints, State, Tensors
from zeropoint.files.chunks import pack, unpack
from zeropoint.layers.checkpoints import decode_layer, encode_layer
from zeropoint.layers.quantized_layer import QuantizedLayer
from zeropoint.layers.selection import Choice
from zeropoint.metrics.sqnr import Noise
from zeropoint.schema.algorithms import AlgorithmSettings
from zeropoint.schema.decisions import AlgorithmReport
from zeropoint.search.trial import Candidate

NAME = "search"
_ALGORITHMS: TypeAdapter[tuple[AlgorithmSettings, ...]] = TypeAdapter(tuple[AlgorithmSettings, ...])


class KeptSearch:
    """The checkpoint of a search that begins with these layers, rounded to nearest."""

    def __init__(self, checkpoints: Checkpoints, layers: Sequence[QuantizedLayer]) -> None:
        self._checkpoints = checkpoints
        self._plain = {layer.layer.name: layer for layer in layers}
        checkpoints.begin()

    def found(self) -> tuple[int, Candidate] | None:
        """Return how many algorithms were tried and the candidate after them; None when no checkpoint fits."""
        tried = self._checkpoints.load(NAME, self._read)
        if tried is not None:
            self._checkpoints.note_resumed("quantizing")
        return tried

    def keep(self, done: int, candidate: Candidate) -> None:
        """Write the checkpoint after `done` algorithms, if one is due."""
        if not self._checkpoints.due:
            return
        quantized = [(name, layer) for name, layer in candidate.layers.items() if layer.qparams is not None]
        layers, tensors = pack(quantized, encode_layer)
        state: dict[str, Any] = {
            "done": done,
            "noise": [candidate.noise.signal.hex(), candidate.noise.noise.hex()],
            "steps": [step.model_dump(mode="json") for step in candidate.steps],
            "tried": _ALGORITHMS.dump_python(candidate.tried, mode="json"),
            "names": [*candidate.layers],
            "layers": layers,
        }
        self._checkpoints.save(NAME, state, tensors)

    def _read(self, state: State, tensors: Tensors) -> tuple[int, Candidate]:
        """Return what `found` does; casts, which aren't stored, are taken from the layers at the start.

        Raises KeyError or ValueError when the checkpoint belongs to other layers.
        """
        signal, noise = (float.fromhex(energy) for energy in state["noise"])
        changed = unpack(state["layers"], tensors, self._decode)
        layers = {name: changed[name] if name in changed else self._plain[name] for name in state["names"]}
        steps = tuple(AlgorithmReport.model_validate(step) for step in state["steps"])
        return state["done"], Candidate(
            layers, Noise(signal, noise), steps, _ALGORITHMS.validate_python(state["tried"])
        )

    def _decode(self, name: str, state: State, tensors: Tensors) -> QuantizedLayer:
        plain = self._plain[name]
        activations = None if plain.activation is None else plain.activation.settings
        return decode_layer(Choice(plain.layer, plain.settings, activations), state, tensors)
