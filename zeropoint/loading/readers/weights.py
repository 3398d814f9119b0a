"""Open `model.safetensors` alone with plain safetensors, and compare it tensor by tensor with the uploaded file.

There is no graph to run: each quantized weight is dequantized as the header says, and its error measured.
"""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor

from zeropoint.files.block_reader import spans
from zeropoint.layers.rounding_error import max_rounding_error
from zeropoint.layers.weights import WeightNames, dequantize_weight, from_tensors, weight_blocks
from zeropoint.loading.readers.program import same
from zeropoint.metrics.sqnr import Noise
from zeropoint.schema.formats import SAFETENSORS_FILE
from zeropoint.schema.recipe import CASTS, WeightSettings
from zeropoint.schema.report import Loaded

MAPPED_BYTES = 32 * 2**20
"""Pages of a memory map stay resident while it is open, so the file is reopened after this many bytes."""

LAYER_KEY = "zeropoint.layer."
"""Repeated from the documentation, not imported: the reader must not depend on the writer."""


class Slices:
    """A file read in parts; little more than the last part is resident."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: Any = safe_open(path, framework="pt")
        self._bytes = 0

    def metadata(self) -> Mapping[str, str]:
        """Return the header's metadata."""
        return self._file.metadata() or {}

    def shape(self, name: str) -> tuple[int, ...]:
        """Return a tensor's shape, from the header."""
        return tuple(self._file.get_slice(name).get_shape())

    def rows(self, name: str, first: int, last: int) -> Tensor:
        """Return rows of a tensor; a scalar is one row."""
        if self._bytes > MAPPED_BYTES:
            self._file, self._bytes = safe_open(self._path, framework="pt"), 0
        values: Tensor = self._file.get_slice(name)[first:last] if self.shape(name) else self._file.get_tensor(name)
        self._bytes += values.nbytes
        return values

    def blocks(self, name: str) -> Iterator[Tensor]:
        """Yield a tensor block by block along its first dimension; a scalar in one piece."""
        for first, last in spans(self.shape(name)):
            yield self.rows(name, first, last)

    def all(self, name: str) -> Tensor:
        """Return a whole tensor."""
        return self.rows(name, 0, sys.maxsize)


class OpenedWeights:
    """A saved file, and the header's description of each quantized weight, by the tensor's name."""

    def __init__(self, path: Path) -> None:
        self._saved = Slices(path)
        layers = [json.loads(v) for k, v in self._saved.metadata().items() if k.startswith(LAYER_KEY)]
        self._about: Mapping[str, Mapping[str, Any]] = {layer["weight"]["tensor"]: layer["weight"] for layer in layers}
        for name in self._about:
            self._saved.shape(name)  # raises when the tensor is missing
        self._uploaded: Slices | None = None
        self.loaded = (Loaded(name=SAFETENSORS_FILE, loader="safetensors.safe_open", version=version("safetensors")),)

    def run(self, batch: Mapping[str, Tensor]) -> Sequence[object]:
        """Raise ValueError: there is no graph."""
        raise ValueError(f"weights alone have no graph to run {len(batch)} inputs through")

    def compare(self, name: str, path: Path) -> dict[str, float | None]:
        """Compare a tensor of the file at `path` with its saved form.

        Returns a quantized weight's `move` (its largest rounding error in steps) and `sqnr_db`, and nothing for a kept
        tensor. Raises ValueError when a kept tensor is not bit-identical, or a shape differs.
        """
        uploaded = self._uploaded = self._uploaded or Slices(path)
        shape, about = uploaded.shape(name), self._about.get(name)
        if about is None:
            self._require_same(name, shape, uploaded)
            return {}
        if list(shape) != about["shape"]:
            raise ValueError(f"{name} has another shape")
        fields = {key: value for key, value in about.items() if key in WeightSettings.model_fields}
        settings, axis = WeightSettings.model_validate(fields), about.get("axis")
        noise, move = Noise(), 0.0
        for rows, weight, _ in weight_blocks(uploaded.blocks(name)):
            stored = self._rows(_names(name, about), settings, axis, rows.start, rows.stop)
            quantized_values, qparams = from_tensors(_names(name, about), settings, axis, stored)
            noise.add(weight, dequantize_weight(quantized_values, qparams))
            move = max(move, max_rounding_error(weight, quantized_values, qparams, settings))
        return {"move": move, "sqnr_db": noise.db}

    def _require_same(self, name: str, shape: tuple[int, ...], uploaded: Slices) -> None:
        if self._saved.shape(name) != shape:
            raise ValueError(f"{name} has another shape")
        if not all(map(same, uploaded.blocks(name), self._saved.blocks(name))):
            raise ValueError(f"{name} differs from the uploaded tensor")

    def _rows(
        self, names: WeightNames, settings: WeightSettings, axis: int | None, first: int, last: int
    ) -> Mapping[str, Tensor]:
        """Return the quantized values of some rows, and the scales and zero points that they need."""
        stored = {names.values: self._saved.rows(names.values, first, last)}
        if settings.dtype in CASTS:
            return stored
        for part in [names.scale, *([names.zero_point] if settings.scheme == "asymmetric" else [])]:
            by_rows = settings.granularity == "per_group" or axis == 0
            stored[part] = self._saved.rows(part, first, last) if by_rows else self._saved.all(part)
        return stored


def _names(name: str, about: Mapping[str, Any]) -> WeightNames:
    """Return the names of a weight's tensors: the header names the scale, and the zero point if it is a tensor."""
    usual, zero_point = WeightNames.usual(name), about.get("zero_point")
    return WeightNames(
        name, about.get("scale", usual.scale), zero_point if isinstance(zero_point, str) else usual.zero_point
    )
