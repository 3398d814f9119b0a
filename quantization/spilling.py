"""Finished layers on the disk: their numbers are mapped from a file, so that memory holds one layer and not all."""

from dataclasses import replace
from pathlib import Path

from quantization.layers import QuantizedLayer
from quantization.sources.pages import map_file
from quantization.tensor_files import save_tensors


def on_disk(layer: QuantizedLayer, path: Path) -> QuantizedLayer:
    """The layer with numbers, scales and zero points in a new file at `path`, which stays as long as they are needed.

    Raises OSError.
    """
    affine = layer.affine
    grids = {} if affine is None else {"scale": affine.scale, "zero_point": affine.zero_point}
    save_tensors({"numbers": layer.weight, **grids}, path, {})
    file = map_file(path)
    if affine is not None:  # in groups of 32, scales and zero points weigh nearly as much as the numbers
        affine = replace(affine, scale=file.tensors["scale"], zero_point=file.tensors["zero_point"])
    return replace(layer, weight=file.tensors["numbers"], affine=affine, file=file)
