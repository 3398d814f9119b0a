"""What every source becomes: a module whose quantizable layers are real `nn` leaves under their own names."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from quantization.report import SkipReason
from quantization.samples import Input
from quantization.sources.pages import MappedFile
from quantization.weight_file import StoredTensor

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
    """The bias's, where it has one."""
    reason: SkipReason | None = None
    scale_dtype: torch.dtype = torch.float32
    """What the scales of the weight and the input are stored in."""
    outlet: nn.Module | None = None
    """What the values of a convolution pass through as they leave it (see `outlets`); programs alone have it."""
    stored: StoredTensor | None = None
    """Where the weight lies, if it lies in a file: it can be read block by block."""
    file: MappedFile | None = None
    """That file, mapped: its pages can be given back."""

    @property
    def output_axis(self) -> int:
        """Which dimension of the weight counts outputs: transposed convolutions have [in, out / groups, ...]."""
        return 1 if self.kind in TRANSPOSED else 0

    @property
    def channel_axis(self) -> int | None:
        """Which dimension of the input counts its channels, from the end; None where it holds indices."""
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


@dataclass(frozen=True)
class Source:
    """A float model, ready to run: `run(batch)` calls `module` and gives its outputs as a flat list."""

    module: nn.Module
    layers: tuple[Layer, ...]
    tensors: Mapping[str, Tensor]
    """Every parameter and buffer that an output needs, by its name in the user's source."""
    original_bytes: int
    dead_bytes: int
    device: str = "cpu"
    changing: Mapping[str, Tensor] = field(default_factory=dict)
    """Buffers that a forward pass changes, as uploaded."""
    fixed: bool = False
    """Whether layers keep their form in what is written: nothing gets a bias, factor or further tensor it has not."""
    libraries: tuple[str, ...] = ()
    """Optional packages that had a part in it: their versions are kept with the result."""

    def run(self, batch: Sequence[Tensor]) -> list[object]:
        """One forward pass of one batch, its tensors in the order of the model's inputs."""
        return list(self.module(*(tensor.to(self.device) for tensor in batch)))

    def reset(self) -> None:
        """Undo what forward passes did to buffers, so that every pass starts from the uploaded state."""
        self.put(self.changing)

    def put(self, buffers: Mapping[str, Tensor]) -> None:
        """Give the buffers of `changing` these values."""
        for name, value in buffers.items():
            self.module.get_buffer(name).copy_(value)


@dataclass(frozen=True, kw_only=True)
class ProgramSource(Source):
    """An exported program; its module takes flat inputs and gives flat outputs."""

    program: ExportedProgram
    inputs: tuple[Input, ...]
    constants: Mapping[int, object] = field(default_factory=dict)
    """Inputs that the export fixed (None, numbers, strings), by position among the flat inputs."""

    def run(self, batch: Sequence[Tensor]) -> list[object]:
        arguments: list[object] = [tensor.to(self.device) for tensor in batch]
        for position, value in sorted(self.constants.items()):
            arguments.insert(position, value)
        return list(self.module(*arguments))


def distinct_bytes(tensors: Iterable[Tensor]) -> int:
    """Bytes of tensors, a storage that several of them share counted once."""
    sizes = {t.untyped_storage().data_ptr(): t.numel() * t.element_size() for t in tensors if t.numel()}
    return sum(sizes.values())
