"""A file of weights becomes a source without a graph: layers that names and shapes suggest, and nothing to run.

Of its tensors there are shapes and dtypes alone, as meta tensors: values are read from the file when their turn comes.
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
"""What can be quantized; other tensors stay as they are."""


@dataclass(frozen=True, kw_only=True)
class WeightsSource(Source):
    """A file of weights; `tensors` have no values."""

    files: Mapping[str, StoredTensor]
    """Every tensor by name, in the order in which they lie in the file."""


class Outline(nn.Module):
    """The weight, and the bias if there is one, of a layer whose values stay in the file."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)


def open_weights(path: Path) -> WeightsSource:
    """Read the header. Raises InvalidModel when it isn't true, or there is no tensor."""
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
        own = sum(tensors[name].nbytes for name in named.tensors)
        return Layer(name=named.name, type=named.type, bytes=own, reason="unsupported")
    bias = f"{named.name}.bias"
    outline = Outline(tensors[named.weight], tensors[bias] if bias in named.tensors else None)
    return Layer(
        name=named.name,
        type=named.type,
        bytes=sum(parameter.nbytes for parameter in outline.parameters()),
        kind=cast(LayerKind, named.type),
        module=outline,
        weight_name=named.weight,
    )


def _can_be_quantized(named: NamedLayer, tensors: Mapping[str, Tensor]) -> bool:
    """Whether it is of a known type, in floats, not empty, and its scale and zero point get names of their own."""
    assert named.weight is not None
    weight = tensors[named.weight]
    taken = any(f"{named.weight}_{part}" in tensors for part in ("scale", "zero_point"))
    known = named.type in (*BY_RANK.values(), "Embedding")
    return known and weight.dtype in FLOATS and weight.numel() > 0 and not taken
