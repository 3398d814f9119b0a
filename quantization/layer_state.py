"""A quantized layer as JSON and tensors, to keep and to take up again; of a layer with a grid: a cast is made anew."""

from typing import Any

import torch
from torch import Tensor

from quantization.affine import Affine, grid_for
from quantization.checkpoints import State, Tensors
from quantization.layers import Outliers, QuantizedLayer
from quantization.selection import Choice


def layer_tensors(layer: QuantizedLayer) -> dict[str, Tensor]:
    """Its tensors, by what they are."""
    assert layer.affine is not None
    outliers = layer.outliers
    parts = {
        "numbers": layer.weight,
        "scale": layer.affine.scale,
        "zero_point": layer.affine.zero_point,
        "bias": layer.bias,
        "pre_quant_scale": layer.pre_quant_scale,
        "outlier_channels": None if outliers is None else outliers.channels,
        "outlier_weight": None if outliers is None else outliers.weight,
    }
    return {part: tensor.contiguous() for part, tensor in parts.items() if tensor is not None}


def layer_state(layer: QuantizedLayer) -> dict[str, Any]:
    """`stride`: the program's file keeps it; SQNR in hexadecimal, which has words for infinity and NaN too."""
    assert layer.affine is not None
    return {
        "parts": [*layer_tensors(layer)],
        "scaled_by": layer.scaled_by,
        "rounding": layer.rounding,
        "stride": list(layer.weight.stride()),
        "axis": layer.affine.axis,
        "group_size": layer.affine.group_size,
        "weight_sqnr_db": None if layer.weight_sqnr_db is None else layer.weight_sqnr_db.hex(),
    }


def restored(choice: Choice, said: State, tensors: Tensors) -> QuantizedLayer:
    """The layer, without the grid of its input. Raises KeyError or ValueError when it is of another weight."""
    numbers, grid = tensors["numbers"], grid_for(choice.weights.dtype, choice.weights.scheme)
    if numbers.shape != choice.layer.weight.shape or numbers.dtype != grid.dtype:
        raise ValueError("it is of another weight")
    weight = torch.empty_strided(numbers.shape, said["stride"], dtype=numbers.dtype).copy_(numbers)
    affine = Affine(grid, tensors["scale"], tensors["zero_point"], said["axis"], said["group_size"])
    db = said["weight_sqnr_db"]
    return QuantizedLayer(
        choice.layer,
        choice.weights,
        weight,
        affine,
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
