"""Open `model.pt2` with plain torch, and require that its tensors equal those of `model.safetensors`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import torch
import torch.ao.quantization.fx._decomposed  # the one import that a loader of model.pt2 needs
from safetensors.torch import load_file
from torch import Tensor, fx, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import ConstantArgument, InputKind
from torch.utils import _pytree as pytree

from zeropoint.data.batches import own_copies
from zeropoint.graph.spelled_names import spelled, spelled_names
from zeropoint.schema.formats import PROGRAM_FILE, SAFETENSORS_FILE
from zeropoint.schema.report import Loaded
from zeropoint.simulation.saturating_program import SaturatingProgram
from zeropoint.simulation.saturation import Kernel


@dataclass(frozen=True)
class OpenedProgram:
    """A program, and what opened it."""

    program: ExportedProgram
    loaded: tuple[Loaded, ...]

    def module(self) -> nn.Module:
        """Return the program as a module that can run, under names that Python can read."""
        return spelled(self.program).module()

    def run(self, batch: Mapping[str, Tensor]) -> list[object]:
        """Return the program's outputs as a flat list; inputs go by position."""
        arguments, options = self.arguments(batch)
        return list(pytree.tree_leaves(self.module()(*arguments, **options)))

    def call(self, batch: Mapping[str, Tensor]) -> Callable[[], object]:
        """Return a call of the program on one copy of the batch, to measure its time."""
        module, (arguments, options) = self.module(), self.arguments(batch)
        return lambda: module(*arguments, **options)

    def run_saturating(self, batch: Mapping[str, Tensor], kernel: Kernel) -> list[object]:
        """Return the outputs as `run` does, with the sums of a kernel that saturates. Buffers stay as they are."""
        module = self.module()
        assert isinstance(module, fx.GraphModule)
        before = [(buffer, buffer.clone()) for buffer in module.buffers()] if _mutates(module) else []
        outputs = SaturatingProgram(module, kernel).run(*self._flat(batch), enable_io_processing=False)
        values = [value.clone() if isinstance(value, Tensor) else value for value in pytree.tree_leaves(outputs)]
        for buffer, value in before:
            buffer.copy_(value)
        return values

    def arguments(self, batch: Mapping[str, Tensor]) -> tuple[Any, Any]:
        """Return the positional arguments and the keywords of a call, with copies of the batch's tensors."""
        return cast(tuple[Any, Any], pytree.tree_unflatten(self._flat(batch), self.program.call_spec.in_spec))

    def _flat(self, batch: Mapping[str, Tensor]) -> list[Any]:
        tensors = iter(own_copies(batch.values()))
        inputs = [s.arg for s in self.program.graph_signature.input_specs if s.kind is InputKind.USER_INPUT]
        return [argument.value if isinstance(argument, ConstantArgument) else next(tensors) for argument in inputs]


def _mutates(module: fx.GraphModule) -> bool:
    """Return whether any operator writes into one of its inputs, which may be a buffer."""
    schemas = (getattr(node.target, "_schema", None) for node in module.graph.nodes)
    return any(schema is not None and schema.is_mutable for schema in schemas)


def open_saved_program(folder: Path) -> OpenedProgram:
    """Load both files. Raises ValueError when they hold different tensors, and what the libraries raise."""
    program = torch.export.load(folder / PROGRAM_FILE)
    stored = load_file(folder / SAFETENSORS_FILE)
    respelled = spelled_names(stored)
    tensors = {respelled.get(name, name): tensor for name, tensor in stored.items()}
    for name, tensor in program.state_dict.items():
        if name in tensors and not same(tensor, tensors[name]):
            raise ValueError(f"{name} differs between {PROGRAM_FILE} and {SAFETENSORS_FILE}")
    loaded = (
        Loaded(name=PROGRAM_FILE, loader="torch.export.load", version=str(torch.__version__)),
        Loaded(name=SAFETENSORS_FILE, loader="safetensors.torch.load_file", version=version("safetensors")),
    )
    return OpenedProgram(program, loaded)


def same(left: Tensor, right: Tensor) -> bool:
    """Return whether two tensors are bit-identical; those of different dtypes (zero points) compare by value."""
    if left.dtype != right.dtype:
        return left.shape == right.shape and bool((left == right).all())
    return left.shape == right.shape and torch.equal(
        left.reshape(-1).view(torch.uint8), right.reshape(-1).view(torch.uint8)
    )
