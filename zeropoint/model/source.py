"""A source: a float model that is ready to run, whose quantizable layers are real `nn` modules."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from zeropoint.data.batches import Input, ModelOutputs, own_copies
from zeropoint.files.block_reader import BLOCK_VALUES
from zeropoint.model.layer import Layer
from zeropoint.model.layer_call import LayerCall
from zeropoint.schema.report import ReportWarning


@dataclass
class CurrentBatch:
    """The batch of the pass that runs now; after an error, the batch that raised it."""

    tensors: Sequence[Tensor] | None = None


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
    """Optional packages that made it: their versions are kept with the result."""
    structure: str = ""
    """What the model computes beside its tensors, as far as text tells: operators, types of modules or a config."""
    notes: tuple[ReportWarning, ...] = ()
    """What the report says of how the model was opened."""
    current: CurrentBatch = field(default_factory=CurrentBatch, compare=False, repr=False)

    @property
    def uploaded(self) -> Mapping[str, Tensor]:
        """Return every tensor as the user gave it, whatever the recipe folded or nothing reads."""
        return self.tensors

    def blocks(self, name: str) -> Iterator[Tensor]:
        """Give the values of an uploaded tensor in blocks, in the order of memory."""
        return iter(torch.split(self.uploaded[name].detach().flatten(), BLOCK_VALUES))

    def run(self, batch: Sequence[Tensor]) -> ModelOutputs:
        """Run one forward pass of one batch, its tensors in the order of the model's inputs.

        Raises whatever the model raises; `current` then has the batch.
        """
        self.current.tensors = batch
        outputs = self.forward(batch)
        self.current.tensors = None
        return outputs

    def forward(self, batch: Sequence[Tensor]) -> ModelOutputs:
        """Call the module with one batch, and return its outputs as a flat list."""
        return ModelOutputs(self.module(*own_copies(batch, self.device)))

    def reset(self) -> None:
        """Undo what forward passes did to buffers, so that every pass starts from the uploaded state."""
        self.put(self.changing)

    def put(self, buffers: Mapping[str, Tensor]) -> None:
        """Set the buffers of `changing` to these values."""
        for name, value in buffers.items():
            self.module.get_buffer(name).copy_(value)


@dataclass(frozen=True, kw_only=True)
class ProgramSource(Source):
    """An exported program; its module takes flat inputs and gives flat outputs."""

    program: ExportedProgram
    inputs: tuple[Input, ...]
    calls: Mapping[str, list[LayerCall]]
    """Layer -> its calls in the program's graph, also for layers that stay in float."""
    original: Mapping[str, Tensor]
    """The state dict before pruning and folding; what did not change shares its memory with `tensors`."""
    output_names: tuple[str, ...] = ()
    """The name or position of each flat output."""
    training: Mapping[str, str] = field(default_factory=dict)
    """The modules that were exported in training mode: path -> class."""
    constants: Mapping[int, object] = field(default_factory=dict)
    """Inputs that the export fixed (None, numbers, strings), by position among the flat inputs."""

    @property
    def uploaded(self) -> Mapping[str, Tensor]:
        return self.original

    def forward(self, batch: Sequence[Tensor]) -> ModelOutputs:
        return ModelOutputs(self.module(*self.arguments(batch)), self.output_names)

    def arguments(self, batch: Sequence[Tensor]) -> list[object]:
        """Return the flat inputs of one call: copies of the tensors on the device, and the constants between them."""
        arguments: list[object] = [*own_copies(batch, self.device)]
        for position, value in sorted(self.constants.items()):
            arguments.insert(position, value)
        return arguments


def floating_outputs(source: Source, batch: Sequence[Tensor]) -> list[Tensor]:
    """Return the floating outputs of one pass from the uploaded state, on the CPU."""
    source.reset()
    with torch.no_grad():
        outputs = source.run(batch)
    return [value.cpu() for value in outputs if isinstance(value, Tensor) and value.is_floating_point()]
