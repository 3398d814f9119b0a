"""A layer of a source: a module that owns parameters, and a real `nn` module if it can be quantized."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from zeropoint.files.block_reader import StoredTensor
from zeropoint.files.mapped import MappedFile
from zeropoint.schema.report import SkipReason

LayerKind = Literal[
    "Linear",
    "Conv1d",
    "Conv2d",
    "Conv3d",
    "ConvTranspose1d",
    "ConvTranspose2d",
    "ConvTranspose3d",
    "Embedding",
]
CHANNEL_AXES: Mapping[LayerKind, int] = {
    "Linear": -1,
    "Conv1d": -2,
    "Conv2d": -3,
    "Conv3d": -4,
    "ConvTranspose1d": -2,
    "ConvTranspose2d": -3,
    "ConvTranspose3d": -4,
}
TRANSPOSED = ("ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d")


@dataclass(frozen=True)
class Layer:
    """A module of the user's source that owns parameters.

    `module` is the `nn.Linear` or `nn.ConvNd` that runs in the source's graph when the layer can be quantized (`kind`);
    if not, `reason` says why.
    """

    name: str
    type: str
    bytes: int
    kind: LayerKind | None = None
    module: nn.Module | None = None
    weight_name: str | None = None
    """The weight's name in the state dict, `encoder.0.weight`."""
    bias_name: str | None = None
    """The bias's name, where it has one."""
    reason: SkipReason | None = None
    scale_dtype: torch.dtype = torch.float32
    """What the scales of the weight and the input are stored in."""
    fused_output: nn.Module | None = None
    """The module that a convolution's output goes through first (see `fused_outputs`); programs alone have it."""
    stored: StoredTensor | None = None
    """Where the weight lies, if it lies in a file: it can be read block by block."""
    file: MappedFile | None = None
    """That file, mapped: its pages can be released."""

    @property
    def output_axis(self) -> int:
        """The dimension of the weight that counts outputs: transposed convolutions have [in, out / groups, ...]."""
        return 1 if self.kind in TRANSPOSED else 0

    @property
    def channel_axis(self) -> int | None:
        """The dimension of the input that counts its channels, from the end; None where the input holds indices."""
        return CHANNEL_AXES.get(self.kind) if self.kind is not None else None

    @property
    def weight(self) -> Tensor:
        """The float weight [out, in / groups, *kernel] of a quantizable layer."""
        assert self.module is not None, self.name
        return self.module.get_parameter("weight").detach()

    @property
    def bias(self) -> Tensor | None:
        """The float bias [out], which stays in float."""
        return getattr(self.module, "bias", None)


def distinct_bytes(tensors: Iterable[Tensor]) -> int:
    """Return the bytes of tensors; a storage that several of them share counts once."""
    sizes = {t.untyped_storage().data_ptr(): t.numel() * t.element_size() for t in tensors if t.numel()}
    return sum(sizes.values())
