"""What a model of the benchmark is: weights, data that calibrates, data that does not, and what the model is for."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.utils import _pytree as pytree

BATCH = 32
LARGEST_BATCH = 1024

Tensors = dict[str, Tensor]
"""Samples by the name of the model's input, in the order of its inputs, stacked along dimension 0."""

Call = Callable[..., Any]
"""Takes the tensors of a batch by position and gives what the model gives."""


@dataclass(frozen=True)
class Model:
    """A model with real data. No sample of `evaluation` or `quality` is one of `calibration`."""

    name: str
    load: Callable[[], nn.Module]
    """In float32 and eval mode. Raises Missing or ModuleNotFoundError, as everything here, without its packages."""
    calibration: Callable[[int], Tensors]
    evaluation: Callable[[int], Tensors]
    quality: Callable[[Call], dict[str, float]]
    """Metrics of the task as shares from 0 to 1, more is better; empty where the model was never trained."""
    calibration_samples: int = 128
    evaluation_samples: int = 256


def export(module: nn.Module, samples: Tensors) -> ExportedProgram:
    """The program of a model, for batches of any size."""
    batch = Dim("batch", min=1, max=LARGEST_BATCH)
    example = tuple(tensor[:2] for tensor in samples.values())
    with torch.no_grad():
        return torch.export.export(module, example, dynamic_shapes={name: {0: batch} for name in samples})


def batches(samples: Tensors) -> Iterator[tuple[Tensor, ...]]:
    """Samples as the arguments of one call after another."""
    yield from zip(*(torch.split(tensor, BATCH) for tensor in samples.values()), strict=True)


def outputs(call: Call, samples: Tensors) -> list[Tensor]:
    """Every floating output of a model, of all samples together."""
    with torch.no_grad():
        rounds = [_floating(call(*batch)) for batch in batches(samples)]
    return [torch.cat(parts) for parts in zip(*rounds, strict=True)]


def _floating(result: Any) -> list[Tensor]:
    leaves = (torch.as_tensor(leaf) for leaf in pytree.tree_leaves(result))
    return [leaf for leaf in leaves if leaf.is_floating_point()]
