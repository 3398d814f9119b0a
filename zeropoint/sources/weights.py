"""A weights file becomes a source without a graph: layers guessed from names and shapes, and nothing to run.

Its tensors are meta tensors, which have only shape and dtype: values are read from the file layer by layer.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from zeropoint.errors import InvalidModel
from zeropoint.files.block_reader import StoredTensor, open_tensors
from zeropoint.model.layer import Layer, LayerKind
from zeropoint.model.source import Source
from zeropoint.schema.weight_layers import BY_RANK, NamedLayer, layers_in

FLOATS = (torch.float32, torch.float16, torch.bfloat16)
"""Dtypes that can be quantized; other tensors stay as they are."""


@dataclass(frozen=True, kw_only=True)
class WeightsSource(Source):
    """A weights file; `tensors` have no values."""

    files: Mapping[str, StoredTensor]
    """Every tensor by name, in file order."""


class MetaLayer(nn.Module):
    """Holds the meta tensors of a layer, weight and bias if any, whose values stay in the file."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)


def open_weights(path: Path) -> WeightsSource:
    """Read the header. Raises InvalidModel when the header is wrong or lists no tensor."""
    files = open_tensors(path)
    if not files:
        raise InvalidModel("weights_invalid", "The file holds 0 tensors.", "Save the weights with safetensors.")
    tensors = {name: torch.empty(t.shape, dtype=t.dtype, device="meta") for name, t in files.items()}
    shapes = {name: t.shape for name, t in files.items()}
    return WeightsSource(
        module=nn.Module(),
        layers=tuple(_layer(named, tensors) for named in layers_in(shapes)),
        tensors=tensors,
        original_bytes=sum(t.bytes for t in files.values()),
        dead_bytes=0,
        files=files,
    )


def _layer(named: NamedLayer, tensors: Mapping[str, Tensor]) -> Layer:
    if named.weight is None or not _can_be_quantized(named, tensors):
        size = sum(tensors[name].nbytes for name in named.tensors)
        return Layer(
            name=named.name, type=named.type, bytes=size, reason="unsupported", parameters=tuple(named.tensors)
        )
    bias = f"{named.name}.bias"
    module = MetaLayer(tensors[named.weight], tensors[bias] if bias in named.tensors else None)
    return Layer(
        name=named.name,
        type=named.type,
        bytes=sum(parameter.nbytes for parameter in module.parameters()),
        kind=cast(LayerKind, named.type),
        module=module,
        weight_name=named.weight,
        parameters=tuple(named.tensors),
    )


def _can_be_quantized(named: NamedLayer, tensors: Mapping[str, Tensor]) -> bool:
    """Return whether the type is known, the weight float and not empty, and no tensor has its scale's name."""
    assert named.weight is not None
    weight = tensors[named.weight]
    taken = any(f"{named.weight}_{part}" in tensors for part in ("scale", "zero_point"))
    known = named.type in (*BY_RANK.values(), "Embedding")
    return known and weight.dtype in FLOATS and weight.numel() > 0 and not taken
