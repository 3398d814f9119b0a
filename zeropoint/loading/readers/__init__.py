"""Readers: open saved files with the software that each format is for. One file per format."""

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
        """Return the opened files, and the software that opened each."""

    def run(self, batch: Mapping[str, Tensor]) -> Sequence[object]:
        """Return the outputs for a batch as a flat list; its tensors go by name, or by position as "0", "1", …"""


def open_artifact(folder: Path) -> Opened:
    """Open the folder's main artifact. Raises whatever its reader raises, ValueError when there is none."""
    if (folder / PROGRAM_FILE).exists():
        return open_saved_program(folder)
    if (folder / CONFIG_FILE).exists():
        return open_network(folder)
    if (folder / SAFETENSORS_FILE).exists():
        return OpenedWeights(folder / SAFETENSORS_FILE)
    raise ValueError("the folder holds no known artifact")


def open_further_artifacts(folder: Path) -> Mapping[str, Opened]:
    """Open further artifacts of the same result, by file name. Raises whatever their readers raise."""
    return {ONNX_FILE: open_onnx(folder)} if (folder / ONNX_FILE).exists() else {}
