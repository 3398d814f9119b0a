"""What other software is to the benchmark: it takes the float model and the calibration samples."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from torch import nn

from benchmarks.comparison.spent import Spent
from benchmarks.models.model import Call, Tensors


@dataclass(frozen=True)
class Quantized:
    """What a peer made."""

    call: Call
    stored_bytes: int
    """Tensors that it keeps, or the file that it writes."""
    spent: Spent
    """What calibrating and quantizing took, without bringing the float model into the peer's own form."""


@dataclass(frozen=True)
class Peer:
    """Software that quantizes. `needs`: its packages, which this project does without."""

    name: str
    needs: tuple[str, ...]
    quantize: Callable[[nn.Module, Tensors, Path], Quantized]
    """Raises ModuleNotFoundError where a package is missing, and whatever the peer raises. The folder is for files."""


def stored_bytes(module: nn.Module) -> int:
    """Bytes of every parameter and buffer."""
    return sum(tensor.nbytes for tensor in chain(module.parameters(), module.buffers()))
