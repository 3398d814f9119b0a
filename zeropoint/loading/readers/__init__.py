"""Readback: what was saved, opened as a stranger would, by the software that the format is for. One file per format."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from torch import Tensor

from zeropoint.loading.readers.huggingface import open_network
from zeropoint.loading.readers.onnx import open_onnx
from zeropoint.loading.readers.program import open_saved_program
from zeropoint.loading.readers.weights import OpenedWeights
from zeropoint.schema.checkpoint_files import CONFIG_FILE
from zeropoint.schema.formats import ONNX_FILE, PROGRAM_FILE, SAFETENSORS_FILE
from zeropoint.schema.report import Loaded


class Opened(Protocol):
    """A saved result that opened."""

    @property
    def loaded(self) -> Sequence[Loaded]:
        """What opened which file."""

    def run(self, batch: Mapping[str, Tensor]) -> Sequence[object]:
        """The outputs, flat, of a batch: its tensors by name, or by position as "0", "1", …"""


def open_artifact(folder: Path) -> Opened:
    """Open what lies in the folder. Raises whatever keeps it from opening."""
    if (folder / PROGRAM_FILE).exists():
        return open_saved_program(folder)
    if (folder / CONFIG_FILE).exists():
        return open_network(folder)
    if (folder / SAFETENSORS_FILE).exists():
        return OpenedWeights(folder / SAFETENSORS_FILE)
    raise ValueError("the folder holds nothing that is known here")


def open_further_artifacts(folder: Path) -> Mapping[str, Opened]:
    """Further artifacts of the same result, by file name: each is run on its own. Raises likewise."""
    return {ONNX_FILE: open_onnx(folder)} if (folder / ONNX_FILE).exists() else {}
