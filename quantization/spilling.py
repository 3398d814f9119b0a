"""Finished layers on the disk: their numbers are mapped from a file, so that memory holds one layer and not all."""

from dataclasses import replace
from pathlib import Path

from quantization.layers import QuantizedLayer
from quantization.sources.pages import map_file
from quantization.tensor_files import save_tensors

NUMBERS = "numbers"


def on_disk(layer: QuantizedLayer, path: Path) -> QuantizedLayer:
    """The layer with its numbers in a new file at `path`, which stays as long as they are needed. Raises OSError."""
    save_tensors({NUMBERS: layer.weight}, path, {})
    file = map_file(path)
    return replace(layer, weight=file.tensors[NUMBERS], file=file)
