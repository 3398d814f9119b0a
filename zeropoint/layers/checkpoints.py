"""Checkpoints of quantization: finished layers, or the qparams of weights that are streamed to a file.

An algorithm that works layer by layer reads its finished layers there, and continues with the next one. Casts are not
stored, since computing one again takes no longer than reading it.
"""

from collections.abc import Sequence
from typing import Any

import torch

from zeropoint.files.checkpoints import Checkpoints, State, Tensors
from zeropoint.files.chunks import ChunkStore
from zeropoint.layers.quantized_layer import Activation, Outliers, QuantizedLayer
from zeropoint.layers.selection import Choice
from zeropoint.primitives.qparams import QParams, quant_type_for
from zeropoint.schema.recipe import CASTS, WeightSettings


def finished_layers(checkpoints: Checkpoints, choices: Sequence[Choice]) -> ChunkStore[QuantizedLayer]:
    """Open the store of the layers that are finished among `choices`."""
    by_name = {choice.layer.name: choice for choice in choices}
    return ChunkStore(
        checkpoints, "layers-", encode_layer, lambda name, state, tensors: decode_layer(by_name[name], state, tensors)
    )


def searched_qparams(checkpoints: Checkpoints, choices: Sequence[Choice]) -> ChunkStore[QParams]:
    """Open the store of weight qparams by layer, for those of `choices` for which `is_searched` is true."""
    settings = {choice.layer.name: choice.weights for choice in choices}

    def decode(name: str, state: State, tensors: Tensors) -> QParams:
        return _qparams(settings[name], state, tensors)

    return ChunkStore(checkpoints, "grids-", _encode_qparams, decode)


def is_searched(settings: WeightSettings) -> bool:
    """Return whether finding a weight's qparams takes much longer than reading the weight."""
    return settings.dtype not in CASTS and settings.observer.kind != "minmax"


def encode_layer(layer: QuantizedLayer) -> tuple[State, Tensors]:
    """Return the state of a layer that is no cast, without the qparams of its output.

    It includes the `stride`, since the program's file depends on it. Floats are written in hexadecimal, which has
    infinity and NaN.
    """
    assert layer.qparams is not None
    qparams, tensors = _encode_qparams(layer.qparams)
    outliers, activation = layer.outliers, layer.activation
    optional = {
        "bias": layer.bias,
        "pre_quant_scale": layer.pre_quant_scale,
        "outlier_channels": None if outliers is None else outliers.channels,
        "outlier_weight": None if outliers is None else outliers.weight,
        "input_scale": None if activation is None else activation.qparams.scale,
        "input_zero_point": None if activation is None else activation.qparams.zero_point,
    }
    present = {part: tensor.contiguous() for part, tensor in optional.items() if tensor is not None}
    state: dict[str, Any] = {
        **qparams,
        "scaled_by": layer.scaled_by,
        "rounding": layer.rounding,
        "stride": list(layer.weight.stride()),
        "weight_sqnr_db": None if layer.weight_sqnr_db is None else layer.weight_sqnr_db.hex(),
        "range": None if activation is None else [activation.minimum.hex(), activation.maximum.hex()],
    }
    return state, {**tensors, "weight": layer.weight.contiguous(), **present}


def decode_layer(choice: Choice, state: State, tensors: Tensors) -> QuantizedLayer:
    """Return the layer that was encoded. Raises KeyError or ValueError when the state belongs to another weight."""
    values, quant_type = tensors["weight"], quant_type_for(choice.weights.dtype, choice.weights.scheme)
    if values.shape != choice.layer.weight.shape or values.dtype != quant_type.dtype:
        raise ValueError("it is of another weight")
    db, split = state["weight_sqnr_db"], "outlier_channels" in tensors
    return QuantizedLayer(
        choice.layer,
        choice.weights,
        torch.empty_strided(values.shape, state["stride"], dtype=values.dtype).copy_(values),
        _qparams(choice.weights, state, tensors),
        _activation(choice, state, tensors),
        weight_sqnr_db=None if db is None else float.fromhex(db),
        bias=tensors.get("bias"),
        pre_quant_scale=tensors.get("pre_quant_scale"),
        scaled_by=state["scaled_by"],
        outliers=Outliers(tensors["outlier_channels"], tensors["outlier_weight"]) if split else None,
        rounding=state["rounding"],
    )


def _activation(choice: Choice, state: State, tensors: Tensors) -> Activation | None:
    settings = choice.activations
    if settings is None or state["range"] is None:
        return None
    minimum, maximum = (float.fromhex(end) for end in state["range"])
    quant_type = quant_type_for(settings.dtype, settings.scheme)
    qparams = QParams(quant_type, tensors["input_scale"], tensors["input_zero_point"])
    return Activation(settings, qparams, minimum, maximum)


def _encode_qparams(qparams: QParams) -> tuple[State, Tensors]:
    tensors = {"scale": qparams.scale.contiguous(), "zero_point": qparams.zero_point.contiguous()}
    return {"axis": qparams.axis, "group_size": qparams.group_size}, tensors


def _qparams(settings: WeightSettings, state: State, tensors: Tensors) -> QParams:
    quant_type = quant_type_for(settings.dtype, settings.scheme)
    return QParams(quant_type, tensors["scale"], tensors["zero_point"], state["axis"], state["group_size"])
